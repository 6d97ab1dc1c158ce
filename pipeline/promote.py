"""Which version serves: the gates that a candidate must pass, the aliases that move, and the way back.

    python -m pipeline.promote             check the candidate, promote it if every gate holds
    python -m pipeline.promote --dry-run   print the table, change nothing
    python -m pipeline.promote rollback    the previous champion serves again; once more undoes it
    python -m pipeline.promote show        versions, aliases, decisions
    python -m pipeline.promote mend        after the project was moved or MLflow updated: make mlflow.db fit again

The alias `champion` is what serves and `previous` what served before it. The registry moves one alias a call, so the
move is first written down as an intent; whoever comes next after a crash completes it. Every decision is a tag of the
version and an artifact with its reasons. Exit status: 0 promoted or already champion, 1 refused, 2 cannot decide.
"""

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.common.files import read_json
from pipeline.common.places import Places
from pipeline.params import load_or_exit
from pipeline.sections import Params, PromoteParams
from pipeline.tracking import store, versions
from uniface.config import TASKS

INTENT = "promotion_intent"  # tag of the registered model while aliases are on the move

# models (task -> safetensors file), folder to write in -> what reports/metrics.json would hold
Evaluate = Callable[[Mapping[str, Path], Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Check:
    """One line of the table: what was asked, what was found."""

    name: str
    wanted: str
    found: str
    passed: bool

    def reason(self) -> str:
        """The line as a phrase."""
        return f"{self.name}: {self.found}, wanted {self.wanted}"


@dataclass(frozen=True)
class Decision:
    """What was decided about the candidate, and why. `outcome`: promoted, refused or unchanged (already champion)."""

    name: str
    candidate: str
    champion: str | None
    outcome: str
    checks: tuple[Check, ...]
    at: str
    dry_run: bool

    def reasons(self) -> tuple[str, ...]:
        """Why it was refused; for a promoted one, what it passed."""
        if self.outcome == "unchanged":
            return (f"version {self.candidate} is the champion already",)
        return tuple(check.reason() for check in self.checks if check.passed == (self.outcome == "promoted"))

    def table(self) -> str:
        """The checks as a markdown table, headed by the decision."""
        against = f"champion {self.champion}" if self.champion else "no champion yet"
        would = "would be " if self.dry_run and self.outcome != "unchanged" else ""
        lines = [f"{self.name} version {self.candidate} ({against}): {would}{self.outcome}", ""]
        if self.outcome == "unchanged":
            return "\n".join([*lines, *self.reasons()])
        lines += ["| check | wanted | found | |", "|---|---|---|---|"]
        lines += [f"| {c.name} | {c.wanted} | {c.found} | {'ok' if c.passed else 'NO'} |" for c in self.checks]
        return "\n".join(lines)


def check_gates(
    candidate: Mapping[str, float], champion: Mapping[str, float] | None, settings: PromoteParams
) -> tuple[Check, ...]:
    """All gates on flat metrics (dotted names). Without a champion the floors and the pair counts alone decide."""
    checks = []
    for task, least in settings.min_pairs.items():
        count = candidate.get(f"pairs.{task}", math.nan)
        checks.append(Check(f"pairs of {task}", f">= {least}", _text(count), count >= least))
    for name, gate in settings.gates.items():
        sign, relation = (1, ">=") if gate.better == "higher" else (-1, "<=")
        value = candidate.get(name, math.nan)
        if gate.floor is not None:
            passed = sign * value >= sign * gate.floor  # False for NaN
            checks.append(Check(name, f"{relation} {gate.floor:g}", _text(value), passed))
        if gate.tolerance is not None and champion is not None:
            if math.isnan(champion.get(name, math.nan)):
                checks.append(Check(name, "the champion's, which has none", _text(value), not math.isnan(value)))
                continue
            bound = champion[name] - sign * gate.tolerance
            wanted = f"{relation} {bound:.4g} (champion {champion[name]:.4g}, tolerance {gate.tolerance:g})"
            checks.append(Check(name, wanted, _text(value), sign * value >= sign * bound))
    return tuple(checks)


def _text(value: float) -> str:
    return "missing" if math.isnan(value) else f"{value:.6g}"


def evaluator(params: Params, places: Places) -> Evaluate:
    """The stage `evaluate`, applied to other models on today's data of a project."""

    def score(models: Mapping[str, Path], out: Path) -> Mapping[str, Any]:
        from pipeline.evaluate import examine

        return examine(models, out, params, places)

    return score


@store.plain_errors()
def promote(params: Params, places: Places, evaluate: Evaluate | None = None, dry_run: bool = False) -> Decision:
    """Check the version with the alias `candidate` and, if every gate holds, make it the champion.

    It is judged against the version that served last. `evaluate` (the stage, unless another is given) scores that on
    today's test data where it was scored on another. With `dry_run` nothing is written. Raises ValueError if there is
    no candidate, if it is not what lies in `models/`, or if its files are gone or do not load.
    """
    evaluate = evaluate or evaluator(params, places)
    registry = versions.Registry(params.register.name, places.root)
    with _alone(places):
        if not dry_run:
            recover(registry)
        aliases = registry.aliases()
        number = _candidate(registry, aliases, places)
        served = [aliases[alias] for alias in ("champion", "previous") if alias in aliases]
        champion = served[0] if served else None
        version = registry.version(number)
        if number == aliases.get("champion"):
            return Decision(registry.name, number, champion, "unchanged", (), _now(), dry_run)
        ours, theirs, gone = registry.metrics(number), None, []
        if not ours:
            raise ValueError(f"the run of {registry.name} version {number} is gone: {versions.REGISTER}")
        for one in served:
            exam = version.tags["evaluation_digest"]
            try:
                theirs = _scores_today(registry, one, exam, params, evaluate, not dry_run)
                break
            except ValueError as error:
                gone.append(Check(f"version {one}, which served", "its numbers", str(error), True))
        checks = (*gone, *check_gates(ours, theirs, params.promote))
        if rolled_back := version.tags.get("rolled_back"):
            checks = (Check("rolled back before", "never", rolled_back, False), *checks)
        outcome = "promoted" if all(check.passed for check in checks) else "refused"
        decision = Decision(registry.name, number, champion, outcome, checks, _now(), dry_run)
        if not dry_run:
            _carry_out(registry, decision)
            _remember(registry, places)
    return decision


def _candidate(registry: versions.Registry, aliases: Mapping[str, str], places: Places) -> str:
    """The candidate's number. ValueError unless it is what was trained and registered here, and its files load."""
    from uniface.model import UniFace

    report, at = places.reports / "registered.json", store.public_uri(registry.uri)
    if not report.is_file():
        raise ValueError(f"nothing is registered here, {report} is missing: dvc repro")
    if "candidate" not in aliases:
        raise ValueError(f"{registry.name} has no candidate at {at}: {versions.REGISTER}")
    models = {task: places.model(task) for task in TASKS}
    if lacking := [path for path in models.values() if not path.is_file()]:
        raise ValueError(f"{lacking[0]} is missing, the candidate cannot be compared with it: dvc repro --pull")
    number, ours = aliases["candidate"], versions.pair_digest(models)
    if ours != registry.version(number).tags.get("weights_digest"):
        raise ValueError(
            f"{registry.name} version {number}, the candidate, is not what is in models/: {versions.REGISTER}"
        )
    if ours != read_json(report).get("weights_digest"):
        raise ValueError(f"{report} is about other weights than those in models/: {versions.REGISTER}")
    with tempfile.TemporaryDirectory() as folder:
        for path in registry.weights(number, folder).values():
            UniFace.load(path)
    return number


def _scores_today(
    registry: versions.Registry, number: str, exam: str, params: Params, evaluate: Evaluate, keep: bool
) -> Mapping[str, float]:
    """A version's numbers on the test data of digest `exam`: its own, those of an earlier re-evaluation, or new.

    Raises ValueError if it has none and its files are gone.
    """
    version, known = registry.version(number), registry.metrics(number)
    wanted = [name for name, gate in params.promote.gates.items() if gate.tolerance is not None]
    if version.tags.get("evaluation_digest") == exam and known and all(name in known for name in wanted):
        return known
    artifact = f"evaluations/{exam}.json"
    if known and version.tags.get(f"evaluated_{exam}") == artifact:
        return versions.numbers(registry.read_json(number, artifact))
    print(f"version {number}, which served, has no numbers on today's test data: scoring it again", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scores = evaluate(registry.weights(number, Path(folder) / "models"), Path(folder) / "out")
    if keep and known:
        registry.log_json(number, scores, artifact)
        registry.tag(number, {f"evaluated_{exam}": artifact})
    return versions.numbers(scores)


def _carry_out(registry: versions.Registry, decision: Decision) -> None:
    """Write the decision down, then move the aliases if it says so."""
    stamp = decision.at.replace(":", "").replace(" ", "_")
    record = {**asdict(decision), "reasons": decision.reasons()}
    registry.log_json(decision.candidate, record, f"decisions/{stamp}_{decision.outcome}.json")
    tags = _tags(decision.outcome, decision.at, "; ".join(decision.reasons()))
    if decision.outcome == "promoted":
        move(registry, decision.candidate, decision.champion, {decision.candidate: tags})
    else:
        registry.tag(decision.candidate, tags)


def _remember(registry: versions.Registry, places: Places) -> None:
    """What the version that serves scored on each pair, in work/champion: the next evaluation compares with it."""
    folder, number = places.work / "champion", registry.aliases().get("champion")
    shutil.rmtree(folder, ignore_errors=True)
    if number is None or not registry.metrics(number):  # no champion, or its run is gone
        return
    for name in ("rows", "pairs"):
        with tempfile.TemporaryDirectory() as place:
            if found := registry.artifact(number, f"reports/{name}", place):
                shutil.copytree(found, folder / name)


def _tags(outcome: str, at: str, reason: str) -> dict[str, str]:
    return {"decision": outcome, "decided_at": at, "decision_reason": reason[:2000]}


def move(
    registry: versions.Registry, champion: str, previous: str | None, tags: Mapping[str, Mapping[str, str]]
) -> None:
    """Set both aliases and the versions' `tags`, so that a crash at any point is made good by `recover`."""
    registry.set_tag(INTENT, json.dumps({"champion": champion, "previous": previous, "tags": tags}))
    recover(registry)


def recover(registry: versions.Registry) -> bool:
    """Complete a move that was begun; True if there was one. Steps that were done before are harmless to repeat."""
    text = registry.tags().get(INTENT)
    if not text:
        return False
    intent, there = json.loads(text), {str(version.version) for version in registry.versions()}
    if intent["previous"] in there or "previous" in registry.aliases():
        registry.set_alias("previous", intent["previous"] if intent["previous"] in there else None)
    if intent["champion"] in there:  # a version may have been deleted since the crash
        registry.set_alias("champion", intent["champion"])
    for number, values in intent["tags"].items():
        if number in there:
            registry.tag(number, values)
    registry.set_tag(INTENT, None)
    return True


@store.plain_errors()
def rollback(params: Params, places: Places) -> str:
    """Swap `champion` and `previous`; what was done. ValueError if there is no previous version, or its files are gone.

    The version taken out is marked, so that no scheduled run promotes it again; a second rollback takes that back.
    Where the champion's version was deleted, the one before serves again.
    """
    registry = versions.Registry(params.register.name, places.root)
    with _alone(places):
        recover(registry)
        aliases = registry.aliases()
        if "previous" not in aliases:
            raise ValueError(f"{registry.name} has no previous champion to go back to")
        back, out, at = aliases["previous"], aliases.get("champion"), _now()
        with tempfile.TemporaryDirectory() as folder:
            registry.weights(back, folder)
        if out is None:
            move(registry, back, None, {back: _tags("promoted", at, "the champion's version was deleted")})
            return f"version {back} serves again; the champion's version was deleted"
        record = {"outcome": "rolled back", "now_serving": back, "taken_out": out, "at": at}
        if registry.metrics(out):  # its run is there to hold the record; the tags say the same
            registry.log_json(out, record, f"decisions/{at.replace(':', '').replace(' ', '_')}_rolled_back.json")
        tags = {
            back: {**_tags("promoted", at, f"rollback from version {out}"), "rolled_back": ""},
            out: {**_tags("rolled back", at, f"rollback to version {back}"), "rolled_back": at},
        }
        move(registry, back, out, tags)
        _remember(registry, places)
    return f"version {back} serves again; version {out} was taken out"


@store.plain_errors()
def show(params: Params, places: Places) -> str:
    """Versions, newest first, with aliases and decisions, as text."""
    registry = versions.Registry(params.register.name, places.root)
    names: dict[str, list[str]] = {}
    for alias, number in registry.aliases().items():
        names.setdefault(number, []).append(alias)
    lines = [f"{registry.name} at {store.public_uri(registry.uri)}"]
    if INTENT in registry.tags():
        lines.append("a promotion was interrupted; the next promote or rollback completes it")
    for version in reversed(registry.versions()):
        found = ", ".join(names.get(str(version.version), [])) or "-"
        decision = f"{version.tags.get('decision', 'not decided')} {version.tags.get('decided_at', '')}".strip()
        lines.append(f"  version {version.version}  {found}  {decision}")
        if reason := version.tags.get("decision_reason"):
            lines.append(f"      {reason}")
    return "\n".join(lines)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


def _alone(places: Places) -> Any:
    """A lock, so that two commands on this machine never move aliases at once."""
    from filelock import FileLock

    places.work.mkdir(exist_ok=True)
    return FileLock(places.work / "promote.lock", timeout=3600)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--dry-run"], ["rollback"], ["show"], ["mend"]):
        print("usage: python -m pipeline.promote [--dry-run | rollback | show | mend]", file=sys.stderr)
        return 2
    params, places = load_or_exit(), Places()
    try:
        if arguments == ["rollback"]:
            print(rollback(params, places))
        elif arguments == ["mend"]:
            print("\n".join(store.mend(places.root)))
        elif arguments == ["show"]:
            print(show(params, places))
        else:
            decision = promote(params, places, dry_run=bool(arguments))
            print(decision.table())
            return int(decision.outcome == "refused")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
