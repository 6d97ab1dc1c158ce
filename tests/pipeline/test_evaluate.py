"""Stage `evaluate`: the same reports every time, of the pairs that were asked for, and one sentence for a fault."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import yaml
from made_pairs import ROOT, SIZE, picture, small_params
from tiny_nets import write_nets

from pipeline import evaluate, schemas
from pipeline.common.files import weights_digest
from pipeline.common.places import Places
from pipeline.common.sheets import LABEL
from pipeline.scoring import reports
from pipeline.scoring.tables import read_table
from uniface.config import TASKS, ModelConfig
from uniface.images import read_image
from uniface.model import UniFace

EXAMS = ("reconstruction", "reenactment", "swapping")


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    return write_nets(tmp_path_factory.mktemp("weights") / "weights")


@pytest.fixture(scope="module")
def params():
    return small_params()


@pytest.fixture(scope="module")
def project(tmp_path_factory, nets):
    """Test clips of three persons, test portraits of three identities, two random models, tiny networks."""
    folder = tmp_path_factory.mktemp("project")
    rows, index = [], []
    for n in range(3):
        path = folder / f"{n}.mp4"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=25, options={"crf": "10"})
            stream.width = stream.height = SIZE
            stream.pix_fmt = "yuv420p"
            for k in range(6):
                frame = np.roll(picture(n), 2 * k, axis=1)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            file.mux(stream.encode())
        row = {
            "person_id": f"id{n}",
            "video_id": f"video{n}",
            "utterance": "00001",
            "chunk": 0,
            "start": 10,
            "end": 16,
            "box": [0.0, 0.0, 32.0, 32.0],
            "width": 64,
            "height": 48,
            "fps": 25.0,
            "frames": 6,
        }
        rows.append(row | {"video": path.read_bytes()})
        kept = {
            "split": "test",
            "status": "kept",
            "reason": None,
            "fit": None,
            "bad_lines": 0,
            "shard": "test-00000.parquet",
            "row": n,
        }
        index.append(row | kept)
    schemas.write(folder / "data/clips/test-00000.parquet", rows, schemas.CLIPS)
    schemas.write(folder / "data/clips/index.parquet", index, schemas.CLIP_INDEX)
    images = []
    for i in range(6):
        png = cv2.imencode(".png", picture(i))[1].tobytes()
        images.append({"image_id": str(i), "identity": str(i // 2), "split": "test", "image": png})
    schemas.write(folder / "data/pairs/images-00000.parquet", images, schemas.IMAGES)
    table = [
        {"source_id": str(i), "target_id": str((i + step) % 6), "same": step == 0}
        for i in range(6)
        for step in (0, 2, 3, 4, 2)
    ]
    schemas.write(folder / "data/pairs/test.parquet", table, schemas.PAIRS)
    for name, seed in (("reenactment", 0), ("swapping", 1)):
        torch.manual_seed(seed)
        config = ModelConfig(image_size=SIZE, feature_stride=4, max_channels=16, channel_base=256, skip_strides=(4,))
        UniFace(config).save(folder / f"models/{name}.safetensors")
    return folder


def test_the_whole_stage_writes_the_same_reports_again(project, nets, params, tmp_path):
    places = Places(project)
    shutil.copytree(nets, places.nets)
    models = {task: places.model(task) for task in TASKS}
    report = evaluate.examine(models, tmp_path / "a", params, places)
    assert evaluate.evaluate(params, places) == report
    shutil.copytree(places.reports, tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    pictures = {f"samples/{name}.png" for name in ("attention", "fdf", *EXAMS, *(f"{exam}_extremes" for exam in EXAMS))}
    tables = {"baselines.csv", "headlines.json", "intervals.csv", "metrics.json", "vs_paper.csv"}
    pairwise = {f"{folder}/{exam}.csv" for folder in ("pairs", "rows") for exam in EXAMS}
    assert {str(path) for path in files} == tables | pictures | pairwise
    page = (tmp_path / "b/index.html").read_text()
    assert page.count("data:image/webp") == len(pictures)
    lines = list(csv.DictReader((tmp_path / "a/intervals.csv").open()))
    (line,) = [x for x in lines if (x["exam"], x["picture"], x["metric"]) == ("swapping", "model", "csim")]
    assert float(line["value"]) == pytest.approx(report["swapping"]["csim"], abs=1e-5)
    assert [float(line["low"]), float(line["high"])] == report["intervals"]["swapping"]["csim"]
    assert read_table(tmp_path / "a", "swapping").rows.keys() == {
        x["picture"] for x in lines if x["exam"] == "swapping"
    }
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
    assert json.loads((tmp_path / "a/metrics.json").read_text()) == report
    shown = json.loads((tmp_path / "a/headlines.json").read_text())
    assert shown["reconstruction"]["psnr"] == report["reconstruction"]["psnr"] and "psnr" not in shown["reenactment"]
    assert all(type(value) is float for exam in shown.values() for value in exam.values())
    beside = {row["picture"]: row for row in csv.DictReader((tmp_path / "a/baselines.csv").open())}
    assert float(beside["swapping: the model"]["csim"]) == report["swapping"]["csim"]
    assert {"reconstruction: mean frame", "swapping: shuffled driver"} < set(beside)
    assert report["pairs"] == dict.fromkeys(("reconstruction", "reenactment", "swapping"), 5)
    assert report["weights"] == {task: weights_digest(path) for task, path in models.items()}
    assert report["models"] == {"reconstruction": "stage 1", "reenactment": "stage 1", "swapping": "stage 2"}
    assert "psnr" in report["reconstruction"] and "psnr" not in report["reenactment"]  # no exact truth for a folder
    assert set(report["baselines"]["reenactment"]) == {
        "copy_source", "blurred_source", "copy_target", "blurred_target", "mean_frame"
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "a/vs_paper.csv").open()))
    rows = [row for row in rows if row["method"] == "UniFace"]
    fid = next(row for row in rows if row["metric"] == "fid" and row["task"] == "reenactment")
    assert fid["ours"] == "" and fid["paper"] == "54.34" and fid["comparable"] == "no"
    assert fid["why"].startswith("not measured: Inception v3 is not there")
    csim = next(row for row in rows if row["metric"] == "csim" and row["task"] == "reenactment")
    assert float(csim["ours"]) == report["reenactment"]["csim"] and csim["comparable"] == "no"
    assert csim["why"] == "stand-in network (tiny judge); 32 px, not 256"
    picture = read_image(tmp_path / "a/samples/swapping.png")
    assert picture.shape == (2 * 130 - 2 + LABEL, 5 * 130 - 2, 3)  # source, target, output, two wrong ones


def test_listed_pairs_are_evaluated_instead_of_the_drawn_ones(project, nets, params, tmp_path):
    places = Places(shutil.copytree(project, tmp_path / "listed"))
    shutil.copytree(nets, places.nets, dirs_exist_ok=True)
    listed = [("0", "2"), ("1", "4"), ("5", "0")]
    rows = [{"source_id": source, "target_id": target, "same": False} for source, target in listed]
    schemas.write(places.pairs / "evaluation.parquet", rows, schemas.PAIRS)
    assert evaluate.evaluate(params, places)["pairs"] == {"reconstruction": 5, "reenactment": 5, "swapping": 3}
    schemas.write(places.pairs / "evaluation.parquet", rows[:1], schemas.PAIRS)
    with pytest.raises(ValueError, match=r"evaluation\.parquet holds only 1"):
        evaluate.evaluate(params, places)


def test_headlines_are_few_numbers_and_the_gains_where_there_is_truth():
    shown = {"psnr": 22.0, "above_mean_frame": 1.5, "right_face": 0.6, "csim": 0.5, "csim_target": 0.1, "ape": 3.0}
    metrics, exams = shown | {"ssim": 0.6}, ("reconstruction", "reenactment", "swapping")
    report = {exam: metrics for exam in exams} | {"networks": {"csim": {"network": "judge"}}}
    report |= {name: {exam: {} for exam in exams} for name in ("exams", "controls")}
    report["controls"]["swapping"] = {"wrong_source": {"right_beats_wrong": 0.7, "psnr_face_gain": 0.3}}
    found = reports.headlines(report)
    assert found["reenactment"] == shown
    assert found["swapping"] == shown | {"right_beats_wrong": 0.7}


def test_what_cannot_be_evaluated_is_one_sentence(project, nets, params, tmp_path):
    places = Places(shutil.copytree(project, tmp_path / "faulty"))
    shutil.copytree(nets, places.nets, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"reenactment\.safetensors makes pictures of 32 pixels, image_size is 64"):
        evaluate.evaluate(replace(params, image_size=64), places)
    manifest = json.loads((places.nets / "weights.json").read_text())
    judge = manifest.pop("judge")
    (places.nets / "weights.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"evaluate needs the networks .*, and .* has no judge\. Choose judge from "):
        evaluate.evaluate(params, places)
    (places.nets / "weights.json").write_text(json.dumps(manifest | {"judge": judge}))
    (places.nets / judge["file"]).unlink()
    with pytest.raises(FileNotFoundError, match=judge["file"]):
        evaluate.evaluate(params, places)
    shutil.copy(nets / judge["file"], places.nets / judge["file"])
    shutil.rmtree(places.clips)
    with pytest.raises(FileNotFoundError, match=r"exam reconstruction: .*data/clips"):
        evaluate.evaluate(params, places)


def started(folder: Path) -> subprocess.Popen:
    """The stage's command in a project, at work."""
    command = [sys.executable, "-m", "pipeline.evaluate"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)


def kept(folder: Path) -> dict[str, int]:
    """What has been measured so far, and the file that holds it: what is measured again has another one."""
    return {path.name: path.stat().st_ino for path in (folder / "work/evaluate/features").glob("*.safetensors")}


@pytest.fixture
def ready(project, nets, params, tmp_path):
    """A project whose command runs."""
    folder = shutil.copytree(project, tmp_path / "ready", ignore=shutil.ignore_patterns("work", "reports"))
    shutil.copytree(nets, folder / "data/weights", dirs_exist_ok=True)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["image_size"] = SIZE
    values["download"]["source"] = values["pairs"]["source"] = "folder"
    values["evaluate"] |= {"pairs": 5, "batch_size": 2, "grid_rows": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_measures_nothing_twice(ready, tmp_path):
    other = shutil.copytree(ready, tmp_path / "other")
    first = started(ready)
    while len(kept(ready)) < 8 and first.poll() is None:
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -9 and not (ready / "reports/metrics.json").exists()
    before = kept(ready)
    second, whole = started(ready), started(other)
    for process in (second, whole):
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    after = kept(ready)
    assert len(before) >= 8 and before.items() < after.items() and after.keys() == kept(other).keys()
    for name in ("metrics.json", "intervals.csv", "rows/swapping.csv"):
        assert (ready / "reports" / name).read_bytes() == (other / "reports" / name).read_bytes()


@pytest.mark.slow
def test_of_two_evaluations_at_once_one_waits_for_the_other(ready):
    first = started(ready)
    while not kept(ready) and first.poll() is None:
        time.sleep(0.01)
    second = started(ready)
    said = second.communicate(timeout=600)[0]
    assert first.wait() == second.returncode == 0
    assert "another run of this stage is at work here, waiting for it to end" in said
