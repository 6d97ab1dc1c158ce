"""Gates, decisions, alias moves that survive a crash, rollback: on a real registry (sqlite), with small fake scores."""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from small_requests import TINY

from pipeline import params as settings
from pipeline import promote as stage
from pipeline.common.places import Places
from pipeline.sections import GateParams, PromoteParams, RegisterParams
from pipeline.tracking import runs, versions
from uniface.model import UniFace, read_metadata

ROOT = Path(__file__).resolve().parents[2]
GATES = PromoteParams(
    gates={
        "reenactment.psnr": GateParams("higher", 18.0, 0.5),
        "swapping.distance": GateParams("lower", 0.4, 0.02),
    },
    min_pairs={"reenactment": 10},
)
GOOD = {"reenactment.psnr": 20.0, "swapping.distance": 0.30, "pairs.reenactment": 50.0}
SEEDS = itertools.count()
NAMES = (f"model{n}" for n in itertools.count())


def failed(checks):
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize(
    ("change", "champion", "wrong"),
    [
        ({}, None, []),
        ({"reenactment.psnr": 18.0, "swapping.distance": 0.4}, None, []),  # bounds are inclusive
        ({"reenactment.psnr": 17.9}, None, ["reenactment.psnr"]),
        ({"swapping.distance": 0.41}, None, ["swapping.distance"]),
        ({"pairs.reenactment": 9}, None, ["pairs of reenactment"]),
        ({"reenactment.psnr": math.nan}, None, ["reenactment.psnr"]),
        ({"reenactment.psnr": 19.5, "swapping.distance": 0.32}, {}, []),  # worse, within tolerance
        ({"reenactment.psnr": 19.4}, {}, ["reenactment.psnr"]),
        ({"swapping.distance": 0.33}, {}, ["swapping.distance"]),
        ({"swapping.distance": math.nan}, {}, ["swapping.distance", "swapping.distance"]),
    ],
)
def test_gates(change, champion, wrong):
    theirs = None if champion is None else {**GOOD, **champion}
    assert failed(stage.check_gates({**GOOD, **change}, theirs, GATES)) == wrong


def test_gates_name_what_is_missing():
    checks = stage.check_gates({}, None, GATES)
    assert failed(checks) == ["pairs of reenactment", "reenactment.psnr", "swapping.distance"]
    assert checks[1].reason() == "reenactment.psnr: missing, wanted >= 18"


def test_gates_are_strict(tmp_path):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["promote"]["gates"]["reenactment.psnr"]["bettr"] = "higher"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"promote\.gates\.reenactment\.psnr\.bettr: unknown key"):
        settings.load(tmp_path / "params.yaml")


class Project:
    """A registered model of its own in the shared database, and versions with given scores."""

    def __init__(self, home: Path):
        self.params = SimpleNamespace(promote=GATES, register=RegisterParams(name=next(NAMES)))  # all that it reads
        self.home = home
        self.registry = versions.Registry(self.params.register.name, home)
        self.registry.client.create_registered_model(self.registry.name)
        self.evaluated = []

    def candidate(self, exam="today", **change):
        """A new version with the alias `candidate` of what is in models/; its number."""
        models = {task: Places(self.home).model(task) for task in stage.TASKS}
        with runs.start_run("test", root=self.home) as run:
            run.log_metrics({**GOOD, **change}, step=0)
            for task, path in models.items():
                torch.manual_seed(next(SEEDS))
                UniFace(TINY).save(path, {"task": task})
                run.log_artifact(path, "model/artifacts")
        source = self.registry.client.get_run(run.id).info.artifact_uri + "/model"
        tags = {"evaluation_digest": exam, "weights_digest": versions.pair_digest(models)}
        made = self.registry.client.create_model_version(self.registry.name, source, run.id, tags=tags)
        self.registry.set_alias("candidate", made.version)
        (self.home / "reports").mkdir(exist_ok=True)
        (self.home / "reports/registered.json").write_text(json.dumps(tags))
        return str(made.version)

    def promote(self, dry_run=False, **scores):
        def evaluate(models, out):
            self.evaluated.append({task: read_metadata(path)[1]["task"] for task, path in models.items()})
            nested = {"reenactment": {"psnr": 20.0}, "swapping": {"distance": 0.30}}
            for name, value in scores.items():
                task, _, metric = name.partition(".")
                nested[task][metric] = value
            return nested

        return stage.promote(self.params, Places(self.home), evaluate, dry_run)

    def serving(self):
        aliases = self.registry.aliases()
        return aliases.get("champion"), aliases.get("previous")


@pytest.fixture
def project(registry_home):
    return Project(registry_home)


def test_first_candidate_is_decided_by_floors_alone(project):
    bad = project.candidate(**{"reenactment.psnr": 12.0})
    decision = project.promote()
    assert (decision.outcome, decision.champion, project.serving()) == ("refused", None, (None, None))
    assert decision.reasons() == ("reenactment.psnr: 12, wanted >= 18",)
    assert project.registry.version(bad).tags["decision"] == "refused"
    good = project.candidate()
    assert project.promote().outcome == "promoted"
    assert project.serving() == (good, None)


def test_worse_is_refused_better_is_promoted_rollback_restores(project):
    first = project.candidate()
    project.promote()
    worse = project.candidate(**{"reenactment.psnr": 19.0})
    decision = project.promote()
    assert decision.outcome == "refused" and project.serving() == (first, None)
    assert decision.reasons() == ("reenactment.psnr: 19, wanted >= 19.5 (champion 20, tolerance 0.5)",)
    assert "reenactment.psnr: 19" in project.registry.version(worse).tags["decision_reason"]
    better = project.candidate(**{"reenactment.psnr": 21.0})
    assert project.promote().outcome == "promoted"
    assert project.serving() == (better, first)
    assert project.promote().outcome == "unchanged"

    done = stage.rollback(project.params, Places(project.home))
    assert done == f"version {first} serves again; version {better} was taken out"
    assert project.serving() == (first, better)
    again = project.promote()  # the candidate is still the version that was taken out
    assert again.outcome == "refused" and again.reasons()[0].startswith("rolled back before")
    stage.rollback(project.params, Places(project.home))
    assert project.serving() == (better, first)
    assert project.registry.version(better).tags["rolled_back"] == ""
    shown = stage.show(project.params, Places(project.home))
    assert f"version {worse}  -  refused" in shown and f"version {better}  candidate, champion" in shown


def test_every_decision_is_an_artifact_with_reasons(project):
    number = project.candidate(**{"swapping.distance": 0.9})
    project.promote()
    run = project.registry.version(number).run_id
    (found,) = project.registry.client.list_artifacts(run, "decisions")
    record = project.registry.read_json(number, found.path)
    assert record["outcome"] == "refused"
    assert record["reasons"] == ["swapping.distance: 0.9, wanted <= 0.4"]
    assert len(record["checks"]) == 3


def test_dry_run_changes_nothing(project):
    number = project.candidate()
    decision = project.promote(dry_run=True)
    assert decision.outcome == "promoted" and "would be promoted" in decision.table()
    assert project.serving() == (None, None) and "decision" not in project.registry.version(number).tags


@pytest.mark.parametrize("writes", range(1, 8))
def test_crash_while_aliases_move_is_made_good(project, monkeypatch, writes):
    """The process dies after so many writes to the registry; the next command finds or makes a consistent state."""
    first = project.candidate()
    project.promote()
    second = project.candidate()
    left = iter(range(writes))

    def dying(real):
        def call(*arguments, **named):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("set_alias", "tag", "set_tag", "log_json"):
            patch.setattr(versions.Registry, name, dying(getattr(versions.Registry, name)))
        project.promote()
        raise KeyboardInterrupt  # all writes were done: nothing to make good
    assert project.serving()[0] in (first, second)  # something good serves all the time
    decision = project.promote()
    assert decision.outcome in ("promoted", "unchanged")
    assert project.serving() == (second, first)
    assert project.registry.version(second).tags["decision"] == "promoted"
    assert stage.INTENT not in project.registry.tags()


def test_champion_is_scored_again_on_other_test_data(project):
    first = project.candidate(exam="yesterday")
    project.promote()
    project.candidate(exam="today", **{"reenactment.psnr": 19.0})
    # on today's data the champion has 19.2, not the 20 of yesterday: the candidate is within the tolerance
    dry = project.promote(dry_run=True, **{"reenactment.psnr": 19.2})
    assert dry.outcome == "promoted"
    decision = project.promote(**{"reenactment.psnr": 19.2})
    assert decision.outcome == "promoted"
    assert project.evaluated == [{"reenactment": "reenactment", "swapping": "swapping"}] * 2
    stage.rollback(project.params, Places(project.home))
    project.candidate(exam="today", **{"reenactment.psnr": 18.6})
    decision = project.promote()
    assert decision.outcome == "refused" and "champion 19.2" in decision.reasons()[0]  # remembered, not scored again
    assert len(project.evaluated) == 2
    assert project.serving()[0] == first


def test_without_candidate_or_previous_it_says_so(project):
    number = project.candidate()
    project.registry.set_alias("candidate", None)  # as in a second clone, whose registry is empty
    with pytest.raises(ValueError, match=r"has no candidate .*: dvc repro --force --single-item register"):
        project.promote()
    (project.home / "reports/registered.json").unlink()
    with pytest.raises(ValueError, match=r"registered\.json is missing: dvc repro$"):
        project.promote()
    project.registry.delete(number)
    project.candidate()
    project.promote()
    with pytest.raises(ValueError, match="no previous champion"):
        stage.rollback(project.params, Places(project.home))


def test_decision_survives_json():
    check = stage.Check("a", ">= 1", "2", True)
    decision = stage.Decision("m", "2", "1", "promoted", (check,), "now", False)
    assert json.loads(json.dumps(dataclasses.asdict(decision)))["checks"][0]["name"] == "a"
    assert "| a | >= 1 | 2 | ok |" in decision.table()


def artifacts(project, number):
    """The folder of a version's model files."""
    source = project.registry.version(number).source
    return Path(source.removeprefix("file://")) / "artifacts"


def test_only_what_is_in_models_is_promoted(project):
    """After `dvc exp apply` the registry's candidate may be another one than what lies in models/ now."""
    first = project.candidate()
    weights = {task: Places(project.home).model(task).read_bytes() for task in stage.TASKS}
    second = project.candidate()
    report = project.home / "reports/registered.json"
    for task, content in weights.items():  # the models of the first, the registry still means the second
        Places(project.home).model(task).write_bytes(content)
    with pytest.raises(
        ValueError, match=r"version 2, the candidate, is not what is in .*--force --single-item register"
    ):
        project.promote()
    project.registry.set_alias("candidate", first)
    with pytest.raises(ValueError, match=r"registered\.json is about other weights .*--force --single-item register"):
        project.promote(dry_run=True)
    report.write_text(json.dumps(project.registry.version(first).tags))
    assert project.promote().outcome == "promoted" and project.serving() == (first, None)
    Places(project.home).model("swapping").unlink()
    with pytest.raises(ValueError, match=r"swapping\.safetensors is missing.* dvc repro --pull"):
        project.promote()
    assert "decision" not in project.registry.version(second).tags


@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_a_version_whose_files_are_not_right_is_not_promoted(project, harm):
    number = project.candidate()
    path = artifacts(project, number) / "reenactment.safetensors"
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        path.write_bytes((path.parent / "swapping.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"files of model\d+ version 1 are .*dvc repro --force --single-item register"):
        project.promote()
    assert project.serving() == (None, None)


def test_a_version_registered_broken_is_not_promoted(project):
    """By an older program, which did not look."""
    number = project.candidate()
    path, ours = artifacts(project, number) / "reenactment.safetensors", Places(project.home).model("reenactment")
    path.write_bytes(path.read_bytes()[:-500])
    ours.write_bytes(path.read_bytes())
    tag = {"weights_digest": versions.pair_digest({t: Places(project.home).model(t) for t in stage.TASKS})}
    project.registry.tag(number, tag)
    (project.home / "reports/registered.json").write_text(json.dumps(tag))
    with pytest.raises(ValueError, match="no safetensors file"):
        project.promote()


def test_a_deleted_champion_leaves_the_one_before_as_measure_and_as_way_back(project):
    first = project.candidate()
    project.promote()
    second = project.candidate(**{"reenactment.psnr": 21.0})
    project.promote()
    project.registry.delete(second)
    third = project.candidate(**{"reenactment.psnr": 19.0})  # above the floor, 1 below the first
    decision = project.promote()
    assert decision.outcome == "refused" and "champion 20" in decision.reasons()[0]
    assert stage.rollback(project.params, Places(project.home)) == (
        f"version {first} serves again; the champion's version was deleted"
    )
    assert project.serving() == (first, None) and third not in project.serving()


def test_a_champion_without_numbers_and_files_gives_way_to_the_one_before(project):
    first = project.candidate()
    project.promote()
    second = project.candidate()
    project.promote()
    run = project.registry.version(second).run_id
    (artifacts(project, second) / "reenactment.safetensors").unlink()
    forget(project, run)
    project.candidate(**{"reenactment.psnr": 19.0})
    decision = project.promote()
    assert decision.outcome == "refused" and "champion 20" in decision.reasons()[0]
    assert decision.checks[0].name == "version 2, which served" and "are gone" in decision.checks[0].found
    stage.rollback(project.params, Places(project.home))
    assert project.serving() == (first, second)
    with pytest.raises(ValueError, match=r"files of .* version 2 are gone"):
        stage.rollback(project.params, Places(project.home))
    assert project.serving() == (first, second)


def test_a_candidate_whose_run_is_gone_names_the_command(project):
    forget(project, project.registry.version(project.candidate()).run_id)
    with pytest.raises(ValueError, match=r"run of .* is gone: dvc repro --force --single-item register"):
        project.promote()


def forget(project, run):
    """What `mlflow gc` does to a run that was deleted, its files apart."""
    from mlflow.tracking._tracking_service.utils import _get_store

    project.registry.client.delete_run(run)
    _get_store()._hard_delete_run(run)


def test_a_version_deleted_while_aliases_moved_is_no_dead_end(project):
    first, second = project.candidate(), project.candidate()
    project.registry.set_alias("champion", first)
    intent = {"champion": second, "previous": first, "tags": {second: {"decision": "promoted"}}}
    project.registry.set_tag(stage.INTENT, json.dumps(intent))
    project.registry.delete(second)
    project.candidate()
    assert project.promote().outcome == "promoted"
