"""Stage `faceforensics`, end to end on a made folder in its layout: drawn heads, the sample's detector and judge."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import evaluate
from pipeline.common.places import Places
from pipeline.faceforensics import faceforensics
from pipeline.params import load
from pipeline.portraits.grouping import by_likeness
from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.drawing.look import Look, Scene
from pipeline.sample.drawing.render import Renderer
from pipeline.scoring.exams import pairs_of
from pipeline.scoring.scorer import Scorer
from pipeline.sections import ExamParams
from pipeline.videos.codec import Encoder
from pipeline.weights import weights
from uniface.data import PairDataset
from uniface.tables import read_table

SIZE, FRAMES = 160, 10
PERSONS = {"000": "ann", "001": "ann", "002": "ann", "003": "bob"}  # 004 shows nobody, 005 is no video
NAMES = ("000_001", "001_000", "000_003", "003_000", "002_003", "004_000", "000_005")
EXAM = ExamParams("swapping", "swapping", "faceforensics")


def heads(person: str, video: str) -> list[np.ndarray]:
    """A person's face in the light and clothes of a video, moving a little."""
    own, rng = np.random.default_rng([len(person), ord(person[0])]), np.random.default_rng(int(video))
    face, look = Face.sample(own), Look.sample(own)
    scene, start, end = Scene.sample(rng), Attributes.portrait(rng), Attributes.portrait(rng)
    draw = Renderer(face, look, scene, (SIZE, SIZE))
    turned = (replace(start, yaw=start.yaw + k * (end.yaw - start.yaw) / 24) for k in range(12))
    return [draw.frame(attributes) for attributes in turned]


def write(path: Path, frames: list[np.ndarray]) -> None:
    clip = Encoder(SIZE, 8, 12)
    for frame in frames:
        clip.add(frame)
    path.write_bytes(clip.finish())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    originals = root / "ff/original_sequences/youtube/c23/videos"
    manipulated = root / "ff/manipulated_sequences/Deepfakes/c23/videos"
    for folder in (originals, manipulated):
        folder.mkdir(parents=True)
    for video, person in PERSONS.items():
        write(originals / f"{video}.mp4", heads(person, video))
    grey = np.random.default_rng(0).integers(100, 110, (12, SIZE, SIZE, 3), dtype=np.uint8)
    write(originals / "004.mp4", list(grey))
    (originals / "005.mp4").write_bytes(b"this is no video" * 100)
    for name in NAMES:
        (manipulated / f"{name}.mp4").touch()
    places, params = Places(root), load(Path(__file__).parents[2] / "params.yaml")
    settings = replace(params.faceforensics, folder="ff", quality="c23", frames=FRAMES)
    params = replace(params, image_size=64, faceforensics=settings, compute=replace(params.compute, crop_workers=1))
    weights(params, places)
    report = faceforensics(params, places)
    return params, places, report


def rows(places: Places) -> dict[str, dict]:
    with open(places.reports / "faceforensics.csv", newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


def test_every_video_has_a_row_with_its_reason(made):
    _, places, report = made
    found = rows(places)
    assert {video: row["status"] for video, row in found.items()} == dict.fromkeys(PERSONS, "kept") | {
        "004": "no_face",
        "005": "unreadable",
    }
    assert "frames shows a face" in found["004"]["reason"] and "not a video" in found["005"]["reason"]
    assert all(int(found[video]["frames"]) == FRAMES for video in PERSONS)
    assert report["videos"] == {"found": 6, "kept": 4} and report["rejected"] == {"no_face": 1, "unreadable": 1}
    assert json.loads((places.reports / "faceforensics.json").read_text()) == report
    table = read_table(places.faceforensics / "videos.parquet", "faceforensics")
    assert table["video"].to_pylist() == list(found)


def test_the_judge_groups_the_videos_of_one_person(made):
    _, places, report = made
    found = rows(places)
    assert found["000"]["identity"] == found["001"]["identity"] == found["002"]["identity"] == "person0001"
    assert found["003"]["identity"] == "person0002" and found["004"]["identity"] == ""
    identities = report["identities"]
    assert (identities["by"], identities["count"], identities["largest"]) == ("judge", 2, 3)
    assert identities["stand_in"] and "885" in identities["note"]


def test_pairs_are_of_the_manipulated_names_target_first(made):
    _, places, report = made
    pairs = PairDataset(places.faceforensics, "test")
    ids = {tuple(name.split("_")[0] for name in pairs.ids(k)) for k in range(len(pairs))}
    assert ids == {("001", "000"), ("000", "001"), ("003", "000"), ("000", "003"), ("003", "002")}  # source, target
    assert len(pairs) == 5 * FRAMES and pairs.image(pairs.ids(0)[0]).shape == (64, 64, 3)
    assert report["pairs"] == {"from": "manipulated_sequences", "videos": 7, "frames": 5 * FRAMES}


def test_idret_is_what_it_is_by_hand(made):
    """Two of five pairs have one person on both sides: there alone the target is as good as the right answer."""
    params, places, _ = made
    pairs = pairs_of("faceforensics", EXAM, params, places)
    scorer = Scorer(places.nets, 10, torch.device("cpu"))
    assert len(pairs) == 5 * FRAMES and len(set(pairs.source_identity)) == 2
    swapped = evaluate.measure("swapping", lambda source, target: source, pairs, scorer).numbers
    kept = evaluate.measure("swapping", lambda source, target: target, pairs, scorer).numbers
    assert swapped["id_retrieval"] == 1 and kept["id_retrieval"] == pytest.approx(2 / 5)


def test_identities_and_pairs_of_the_users_own(made):
    params, places, _ = made
    who = {"000": "ann", "001": "ann's twin", "002": "ann", "003": "bob"}
    (places.root / "who.csv").write_text("video,identity\n" + "".join(f"{v},{p}\n" for v, p in who.items()))
    (places.root / "splits.json").write_text('[["000", "001"], ["002", "003"]]')
    settings = replace(params.faceforensics, identities="who.csv", pairs="splits.json")
    report = faceforensics(replace(params, faceforensics=settings), places)
    assert {v: row["identity"] for v, row in rows(places).items() if row["identity"]} == who
    assert report["identities"] == {"by": "csv", "file": "who.csv", "count": 3, "largest": 2} | {
        "note": report["identities"]["note"]
    }
    assert report["pairs"] == {"from": "splits.json", "videos": 4, "frames": 4 * FRAMES}  # both ways
    (places.root / "who.csv").write_text("video,identity\n000,ann\n")
    with pytest.raises(ValueError, match="does not say whom 3 videos show, 001 first"):
        faceforensics(replace(params, faceforensics=settings), places)
    (places.root / "splits.json").write_text('["000_009"]')
    with pytest.raises(ValueError, match="names 1 videos that are not there, 009 first"):
        faceforensics(replace(params, faceforensics=settings), places)


def test_without_names_the_seed_pairs_every_video_once(made):
    from pipeline.faceforensics import _wanted

    params, places, _ = made
    videos = [f"{k:03d}" for k in range(20)]
    pairs, where = _wanted(params.faceforensics, places.root, places.root / "none", videos, 5)
    assert where == "seed" and sorted(a for a, _ in pairs) == sorted(b for _, b in pairs) == videos
    assert (
        all(a != b for a, b in pairs) and pairs != _wanted(params.faceforensics, places.root, places.root, videos, 6)[0]
    )


def test_without_a_folder_there_is_nothing_to_do(made, tmp_path, capsys):
    params, places = made[0], Places(tmp_path)
    settings = replace(params.faceforensics, folder="data/raw/README.md")
    report = faceforensics(replace(params, faceforensics=settings), places)
    assert report["videos"] == {"found": 0, "kept": 0} and "nothing to do" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"exam faceforensics: .*name the folder of FaceForensics"):
        pairs_of("faceforensics", EXAM, params, places)
    for folder, said in (("missing", "no folder"), (".", "has no NNN.mp4")):
        with pytest.raises(FileNotFoundError, match=said):
            faceforensics(replace(params, faceforensics=replace(settings, folder=folder)), places)


def test_likeness_groups_by_the_mean_cosine():
    close = np.array([[1.0, 0.0], [0.95, 0.3], [0.9, 0.45]])
    far = np.array([[0.0, 1.0], [-0.2, 1.0]])
    assert by_likeness(np.concatenate([far[:1], close, far[1:]]), 0.7) == [1, 2, 2, 2, 1]
    assert by_likeness(close, 0.999) == [1, 2, 3] and by_likeness(close[:1], 0.5) == [1]
