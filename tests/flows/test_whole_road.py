"""The whole road for real, tiny: `dvc repro` in a fresh copy of the project at 32 px with a few steps.

One project is reproduced; each test changes a copy of it. Another value or other code gives another result, and only
of the stages that it touches.
"""

import json
import shutil
from pathlib import Path

import pytest
from tiny_project import STAGES, TINY, change_code, change_params, command, commit, make_tiny, ran

from pipeline.common.places import Places
from pipeline.tracking import store, versions
from uniface.data import PairDataset
from uniface.model import read_metadata
from uniface.tables import read_table

pytestmark = pytest.mark.road


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """A project in which `dvc repro` has run, and what that said."""
    project = make_tiny(tmp_path_factory.mktemp("reproduced") / "project")
    done = command(project, "dvc", "repro")
    assert done.returncode == 0, done.stdout[-3000:]
    commit(project, "reproduced")
    return project, done.stdout


@pytest.fixture
def project(reproduced, tmp_path, monkeypatch):
    """A copy of that project to change, with the registry mended as somebody who copies a project would."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself leaves there what it was last told
    copy = Path(shutil.copytree(reproduced[0], tmp_path / "project"))
    store.mend(copy)
    return copy


def again(project: Path, stage: str) -> None:
    """`dvc repro` of this stage alone, which must run it."""
    done = command(project, "dvc", "repro", "--single-item", stage)
    assert done.returncode == 0 and ran(done.stdout) == [stage], done.stdout[-3000:]


def test_another_margin_gives_other_boxes(project):
    """The videos that were finished with the old code are not published as the new code's."""
    boxes = read_table(Places(project).clips / "index.parquet", "clip_index")["box"].to_pylist()
    change_code(project, "uniface/use/crops.py", "across = down = increase", "across = down = increase = 0.2")
    again(project, "crop")
    wider = read_table(Places(project).clips / "index.parquet", "clip_index")["box"].to_pylist()
    kept = [(old, new) for old, new in zip(boxes, wider, strict=True) if old[0] == old[0] and new[0] == new[0]]
    assert kept and all(new[2] - new[0] > 1.1 * (old[2] - old[0]) for old, new in kept)


def test_another_resize_gives_other_portraits(project):
    before = PairDataset(Places(project).pairs, "train").pair(0)[0]
    change_code(project, "uniface/images.py", "cv2.convertScaleAbs(small)", "cv2.convertScaleAbs(small, alpha=0.5)")
    again(project, "pairs")
    after = PairDataset(Places(project).pairs, "train").pair(0)[0]
    assert abs(after.mean() - before.mean() / 2) < 1


def test_another_truth_gives_other_scores(project):
    """The rendered answers that `work/` keeps belong to the code that rendered them."""
    before = json.loads((project / "reports/metrics.json").read_text())
    change_code(project, "pipeline/sample/truth.py", "return resize(frame,", "return resize(frame // 2,")
    again(project, "evaluate")
    after = json.loads((project / "reports/metrics.json").read_text())
    assert after["reenactment"]["psnr"] != before["reenactment"]["psnr"]
    assert after["reconstruction"] == before["reconstruction"]  # whose answer is the target


def last_run(project: Path, name: str) -> dict[str, str]:
    """The settings with which the newest MLflow run of this name was made."""
    client = versions.Registry("uniface", project).client
    experiment = client.get_experiment_by_name(store.EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'", max_results=1)
    return found[0].data.params


def test_a_setting_of_an_experiment_is_used(project):
    """DVC writes 0.00001 as 1e-05, a text in YAML 1.1."""
    sets = ("-S", "train_reenactment.lr=0.00001", "-S", "model.skip_strides=[2,4]")
    done = command(project, "dvc", "exp", "run", "--single-item", *sets, "train_reenactment")
    assert done.returncode == 0 and ran(done.stdout) == ["train_reenactment"], done.stdout[-3000:]
    assert "lr: 1e-05" in (project / "params.yaml").read_text()
    config, _ = read_metadata(Places(project).model("reenactment"))
    assert config.skip_strides == (2, 4)
    assert float(last_run(project, "train_reenactment")["lr"]) == 1e-5
    curve = (project / "reports/reenactment.csv").read_text().splitlines()
    rates = [float(line.split(",")[curve[0].split(",").index("lr")]) for line in curve[1:]]
    assert rates and max(rates) <= 1e-5


def test_the_whole_road(reproduced, project):
    assert sorted(ran(reproduced[1])) == sorted(STAGES)
    assert "Warning" not in reproduced[1]  # Python's, of others' making
    metrics = json.loads((project / "reports/metrics.json").read_text())
    for task in ("reconstruction", "reenactment", "swapping"):
        assert metrics[task]["psnr"] > 0
    for name in ("reenactment", "swapping"):
        assert (project / f"models/{name}.safetensors").stat().st_size > 10_000
        assert (project / f"reports/samples/{name}.png").read_bytes()[:4] == b"\x89PNG"
    registered = json.loads((project / "reports/registered.json").read_text())
    assert registered["alias"] == "candidate" and int(registered["version"]) == 1

    clean = command(project, "dvc", "status")
    assert "up to date" in clean.stdout
    flow = command(project, "python", "-m", "flows.reproduce")
    assert flow.returncode == 0, flow.stdout[-3000:]
    assert not ran(flow.stdout)

    # the registered model, by its alias, answers for both tasks
    code = """
import base64, io, mlflow, pandas
from PIL import Image
from pipeline.tracking import store
store.initialise()
file = io.BytesIO()
Image.new("RGB", (32, 32), "gray").save(file, "PNG")
image = base64.b64encode(file.getvalue()).decode()
rows = pandas.DataFrame({"source": [image] * 2, "target": [image] * 2, "task": ["reenactment", "swapping"]})
print("answers:", len(mlflow.pyfunc.load_model("models:/uniface@candidate").predict(rows)))
"""
    answer = command(project, "python", "-c", code)
    assert "answers: 2" in answer.stdout, answer.stdout[-3000:]

    # one changed training value and a stage that fails: only what is below runs again, and the flow names the stage
    change_params(project, {"train_swapping": {"iterations": TINY["train_swapping"]["iterations"] + 1}})
    (project / "pipeline/evaluate.py").write_text("raise SystemExit('broken on purpose')\n")
    failed = command(project, "python", "-m", "flows.reproduce")
    assert failed.returncode != 0
    assert ran(failed.stdout) == ["train_swapping", "evaluate"], failed.stdout[-3000:]
    errors = [line for line in failed.stdout.splitlines() if line.startswith("error:")]
    assert any("evaluate" in line for line in errors), failed.stdout[-3000:]
