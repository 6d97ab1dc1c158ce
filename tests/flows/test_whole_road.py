"""The whole road for real, tiny: `dvc repro` in a fresh copy of the project at 32 px with a few steps."""

import json

import pytest
from tiny_project import STAGES, TINY, change_params, command, make_tiny, ran


@pytest.mark.road
def test_the_whole_road(tmp_path):
    project = make_tiny(tmp_path)
    done = command(project, "dvc", "repro")
    assert done.returncode == 0, done.stdout[-3000:]
    assert sorted(ran(done.stdout)) == sorted(STAGES)
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
    again = command(project, "python", "-m", "flows.reproduce")
    assert again.returncode == 0, again.stdout[-3000:]
    assert not ran(again.stdout)

    # the registered model, by its alias, answers for both tasks
    code = """
import base64, io, mlflow, pandas
from PIL import Image
from pipeline.tracking import runs
runs.initialise()
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
