"""The stage crop: shards, index, report, and stopping in between."""

import json
import multiprocessing
import os
import signal
import time

import pytest
from drawn_videos import annotation, face_video
from small_crops import PARAMS, SIZE, VIDEOS, contents, job, lay_out, run_stage

from pipeline.videos.annotations import Annotations, Crop, read_metadata, write_metadata
from pipeline.videos.clips import crop_video
from uniface.data import read_frames
from uniface.tables import read_table


def test_the_stage_writes_shards_index_report_and_picture(tmp_path):
    data = lay_out(tmp_path, VIDEOS, broken="d")
    report = run_stage(data, tmp_path)
    assert report == json.loads((tmp_path / "reports" / "clips.json").read_text())
    assert (report["candidates"], report["kept"], report["corrupt"]) == (9, 8, 1)
    assert report["videos"] == {"ok": 5, "unavailable": 1, "failed": 0}
    assert report["splits"] == {"test": {"kept": 2, "persons": 1}, "train": {"kept": 6, "persons": 2}}
    assert (tmp_path / "reports" / "clips.png").stat().st_size > 5000
    names = sorted(p.name for p in (data / "clips").iterdir())
    assert names == [
        "index.parquet",
        "test-00000.parquet",
        "train-00000.parquet",
        "train-00001.parquet",
        "vox-metadata.csv",
    ]
    index = read_table(data / "clips" / "index.parquet", "clip_index").to_pylist()
    assert len(index) == 9
    for entry in (entry for entry in index if entry["status"] == "kept"):
        stored = read_table(data / "clips" / entry["shard"], "clips").to_pylist()[entry["row"]]
        same = ("person_id", "video_id", "utterance", "chunk", "start", "end", "frames", "box")
        assert {name: stored[name] for name in same} == {name: entry[name] for name in same}
        assert len(read_frames(stored["video"], range(stored["frames"]))) == stored["frames"]
    (lost,) = [entry for entry in index if entry["status"] == "corrupt"]
    assert lost["video_id"] == "d" and "not a video" in lost["reason"] and lost["shard"] is None


def test_the_written_metadata_crops_the_same_clips_without_a_detector(tmp_path):
    data = lay_out(tmp_path, {"a": "train"})
    run_stage(data, tmp_path)
    written = list(read_metadata(data / "clips" / "vox-metadata.csv"))
    given = Annotations(data / "clips" / "vox-metadata.csv").crops("id00000", "a")
    assert [w[3] for w in written] == given and len(given) == 2
    again = crop_video(job(data / "videos/id00000/a.mp4", crops=given), SIZE, PARAMS, None)
    stored = read_table(data / "clips" / "train-00000.parquet", "clips").to_pylist()
    assert [clip.video for clip in again] == [entry["video"] for entry in stored]


def test_bad_lines_and_given_boxes_are_counted_in_the_report(tmp_path):
    import zipfile

    data = lay_out(tmp_path, {"a": "train"})
    with zipfile.ZipFile(data / "annotations" / "txt.zip", "w") as archive:
        good = annotation("id00000", "a", range(60), box=(40, 30, 88, 78)).splitlines()
        good[20] += " 0.5"
        archive.writestr("txt/id00000/a/00001.txt", "\n".join(good))
    report = run_stage(data, tmp_path)
    assert (report["bad_annotation_lines"], report["kept"], "given_boxes" in report) == (1, 1, False)
    index = read_table(data / "clips" / "index.parquet", "clip_index").to_pylist()
    assert [(row["bad_lines"], row["frames"]) for row in index] == [(1, 60)]
    (data / "annotations" / "txt.zip").unlink()
    crops = [Crop(0, 30, (40, 30, 88, 78), 160, 120), Crop(30, 60, (2, 30, 42, 78), 160, 120)]
    write_metadata(data / "annotations" / "vox-metadata.csv", [("id00000", "a", "train", crop) for crop in crops])
    report = run_stage(data, tmp_path)
    assert report["given_boxes"] == {"as_given": 1, "grown": 0, "moved": 1, "padded": 0, "stretched": 0}
    report = run_stage(data, tmp_path, shape="stretch")
    assert report["given_boxes"] == {"as_given": 1, "grown": 0, "moved": 0, "padded": 0, "stretched": 1}


def test_a_second_run_makes_nothing_again_and_a_new_video_costs_only_itself(tmp_path, monkeypatch):
    data = lay_out(tmp_path, VIDEOS)
    run_stage(data, tmp_path)
    before = contents(data / "clips")
    made = []
    monkeypatch.setattr(
        "pipeline.videos.clips.crop_video", lambda job, *rest: made.append(job.video_id) or crop_video(job, *rest)
    )
    run_stage(data, tmp_path)
    assert made == [] and contents(data / "clips") == before
    face_video(data / "videos" / "id00000" / "b.mp4", 60, box=(46, 30, 94, 78))  # by hand: its row tells the old sha256
    run_stage(data, tmp_path)
    after = contents(data / "clips")
    assert made == ["b"] and after["train-00000.parquet"] != before["train-00000.parquet"]
    assert after["test-00000.parquet"] == before["test-00000.parquet"]
    (data / "videos" / ".DS_Store").write_bytes(b"a folder that somebody looked into")
    run_stage(data, tmp_path, clips_per_shard=2)
    assert made == ["b"] and "train-00003.parquet" in contents(data / "clips")
    run_stage(data, tmp_path, crf=30)
    assert len(made) == 1 + len(VIDEOS)


def test_results_of_another_version_are_said_and_made_again(tmp_path, capsys):
    data = lay_out(tmp_path, VIDEOS)
    run_stage(data, tmp_path)
    before = contents(data / "clips")
    for note in (tmp_path / "work/crop").rglob("videos/*/*.json"):
        note.write_text('{"key": "old", "clips": []}')
    capsys.readouterr()
    run_stage(data, tmp_path)
    said = f"crop: {len(VIDEOS)} notes of another version set aside: these videos were cropped again"
    assert said in capsys.readouterr().out and contents(data / "clips") == before


def test_missing_inputs_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"videos\.parquet"):
        run_stage(tmp_path / "data", tmp_path)


def crop_slowly(*args):
    found = crop_video(*args)
    time.sleep(0.3)
    return found


def test_killed_in_the_middle_goes_on_to_the_same_end(tmp_path, monkeypatch):
    data = lay_out(tmp_path, VIDEOS)
    monkeypatch.setattr("pipeline.videos.clips.crop_video", crop_slowly)
    process = multiprocessing.get_context("fork").Process(target=run_stage, args=(data, tmp_path))
    process.start()
    results = tmp_path / "work"
    deadline = time.monotonic() + 60
    while len(list(results.rglob("*/videos/*/*.json"))) < 2:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    monkeypatch.undo()
    assert not (data / "clips").exists()
    made = {p: p.stat().st_mtime_ns for p in results.rglob("*/videos/*/*.json")}
    assert 2 <= len(made) < len(VIDEOS)
    run_stage(data, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in made} == made
    after = contents(data / "clips")
    untouched = lay_out(tmp_path / "again", VIDEOS)
    run_stage(untouched, tmp_path / "again")
    assert contents(untouched / "clips") == after
