"""The stage download: folders in every layout, and the sample."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
from drawn_videos import annotation, face_video, picture
from numbered import number, numbered
from small_downloads import PARAMS, list_videos, run

from pipeline.common.places import Places
from pipeline.download import download
from pipeline.videos import codec, folders
from pipeline.videos.annotations import Annotations
from uniface.images import write_image
from uniface.tables import read_table


def test_videos_by_id_with_holes(tmp_path):
    list_videos(tmp_path, ["-dashed_id1", "deep", "gone", "zero", "half"])
    raw = tmp_path / "raw"
    first = face_video(raw / "-dashed_id1.mp4", 40)
    face_video(raw / "some" / "where" / "deep.mkv", 40)
    (raw / "zero.mp4").write_bytes(b"")
    (raw / "half.mp4").write_bytes(first.read_bytes()[:2000])
    counts, rows = run(tmp_path, source="folder")
    assert counts == {"ok": 2, "unavailable": 1, "failed": 2}
    assert {name: row["status"] for name, row in rows.items()} == {
        "-dashed_id1": "ok",
        "deep": "ok",
        "gone": "unavailable",
        "half": "failed",
        "zero": "failed",
    }
    assert all(row["reason"] for row in rows.values() if row["status"] != "ok")
    row = rows["-dashed_id1"]
    assert row["path"] == "videos/id00012/-dashed_id1.mp4" and len(row["sha256"]) == 64
    assert (row["width"], row["height"], row["fps"], row["frames"], row["split"]) == (160, 120, 25.0, 40, "train")
    assert (tmp_path / "data" / row["path"]).read_bytes() == first.read_bytes()
    with zipfile.ZipFile(tmp_path / "data" / "annotations" / "txt.zip") as archive:
        assert "txt/id00012/deep/00001.txt" in archive.namelist()


def test_a_rerun_looks_only_at_what_changed(tmp_path, monkeypatch):
    list_videos(tmp_path, ["a", "b", "gone"])
    face_video(tmp_path / "raw" / "a.mp4", 30)
    (tmp_path / "raw" / "b.mp4").write_bytes(b"broken")
    assert run(tmp_path, source="folder")[0] == {"ok": 1, "unavailable": 1, "failed": 1}
    face_video(tmp_path / "raw" / "b.mp4", 30)
    looked = []
    import pipeline.download as module

    probe = module.codec.probe
    monkeypatch.setattr(module.codec, "probe", lambda path: looked.append(Path(path).name) or probe(path))
    assert run(tmp_path, source="folder")[0] == {"ok": 2, "unavailable": 1, "failed": 0}
    assert looked == ["b.mp4"]
    face_video(tmp_path / "raw" / "gone.mp4", 30)
    assert run(tmp_path, source="folder")[0] == {"ok": 3, "unavailable": 0, "failed": 0}
    assert looked == ["b.mp4", "gone.mp4"]


def test_what_another_version_remembered_is_said_and_looked_at_again(tmp_path, capsys):
    list_videos(tmp_path, ["a", "b"])
    for name in ("a", "b"):
        face_video(tmp_path / "raw" / f"{name}.mp4", 30)
    run(tmp_path, source="folder")
    assert "another version" not in capsys.readouterr().out
    for note in (tmp_path / "work/download/folder").rglob("*.json"):
        note.write_text('{"facts": {"status": "ok"}}')  # as before there were versions
    assert run(tmp_path, source="folder")[0]["ok"] == 2
    assert (
        "download: 2 notes of another version set aside: these videos were looked at again" in capsys.readouterr().out
    )
    run(tmp_path, source="folder")
    assert "another version" not in capsys.readouterr().out


def test_voxceleb2s_own_release_and_fomms_folders(tmp_path):
    raw = tmp_path / "raw"
    face_video(raw / "mp4" / "id00017" / "vid" / "00001.mp4", 30, size=(64, 64), box=(8, 8, 56, 56))
    face_video(raw / "mp4" / "id00017" / "vid" / "00002.mp4", 30, size=(64, 64), box=(8, 8, 56, 56))
    face_video(raw / "train" / "id10001#w#00003.txt#002.mp4", 30, size=(64, 64), box=(8, 8, 56, 56))
    for k in range(4):
        write_image(raw / "test" / "id10270#x#00004.txt#000.mp4" / f"{k:07d}.png", picture((64, 64), (8, 8, 56, 56)))
    counts, rows = run(tmp_path, source="folder")
    assert counts == {"ok": 3, "unavailable": 0, "failed": 0}
    assert {name: row["split"] for name, row in rows.items()} == {"vid": "test", "w": "train", "x": "test"}
    data = tmp_path / "data"
    files = {p.relative_to(data / "videos").as_posix() for p in (data / "videos").rglob("*.mp4")}
    assert files == {
        "id00017/vid/00001.mp4",
        "id00017/vid/00002.mp4",
        "id10001/w/00003#002.mp4",
        "id10270/x/00004#000.mp4",
    }
    assert rows["vid"]["frames"] == 60 and rows["vid"]["path"] == "videos/id00017/vid"


def frames_folder(raw, name):
    folder = raw / "train" / name
    folder.mkdir(parents=True)
    return folder


def test_folders_of_frames_come_in_natural_order_and_keep_their_central_square(tmp_path):
    folder = frames_folder(tmp_path / "raw", "id10001#w#00003.txt#002.mp4")
    for k in range(70):
        image = np.zeros((48, 96, 3), np.uint8)
        image[:, 24:72] = numbered(k, (48, 48))
        image[:, 72:] = 255
        write_image(folder / f"{k}{('.png', '.PNG', '.jpeg', '.jpg')[k % 4]}", image)
    (folder / ".DS_Store").write_bytes(b"x")
    assert run(tmp_path, source="folder")[0]["ok"] == 1
    stored = tmp_path / "data/videos/id10001/w/00003#002.mp4"
    found = [picture.rgb() for _, picture in codec.ticks(stored, as_stored=True)]
    assert {frame.shape for frame in found} == {(48, 48, 3)}
    assert [number(frame) for frame in found] == list(range(70))


def test_a_broken_folder_of_frames_costs_its_video_alone(tmp_path):
    raw = tmp_path / "raw"
    for video in ("good", "cut", "zero", "sizes"):
        folder = frames_folder(raw, f"id10001#{video}#00003.txt#000.mp4")
        for k in range(3):
            write_image(folder / f"{k}.png", numbered(k, (48, 48)))
    frames_folder(raw, "id10001#empty#00003.txt#000.mp4")
    cut = raw / "train" / "id10001#cut#00003.txt#000.mp4" / "1.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (raw / "train" / "id10001#zero#00003.txt#000.mp4" / "2.png").write_bytes(b"")
    write_image(raw / "train" / "id10001#sizes#00003.txt#000.mp4" / "2.png", numbered(1, (60, 60)))
    counts, rows = run(tmp_path, source="folder")
    assert counts == {"ok": 1, "unavailable": 0, "failed": 4} and rows["good"]["status"] == "ok"
    for name, place in {"cut": "1.png", "zero": "2.png", "sizes": "2.png", "empty": "id10001#empty"}.items():
        assert rows[name]["status"] == "failed" and place in rows[name]["reason"] and rows[name]["path"] is None
    write_image(cut, numbered(1, (48, 48)))  # mended in place
    assert run(tmp_path, source="folder")[1]["cut"]["status"] == "ok"


def test_any_talking_heads_without_annotations(tmp_path):
    raw = tmp_path / "raw"
    face_video(raw / "anna" / "one talk.mp4", 30)
    face_video(raw / "anna" / "two.mov", 30)
    face_video(raw / "test" / "bob" / "x.mp4", 30)
    face_video(raw / "solo.mp4", 30)
    counts, rows = run(tmp_path, source="videos")
    assert counts["ok"] == 4
    assert {(row["person_id"], row["split"]) for row in rows.values() if row["person_id"] == "bob"} == {("bob", "test")}
    assert len({row["split"] for row in rows.values() if row["person_id"] == "anna"}) == 1
    assert "two" in rows and rows["solo"]["person_id"] == "solo"
    spaced = next(row for name, row in rows.items() if name.startswith("one_talk_"))
    assert (tmp_path / "data" / spaced["path"]).is_file()


def test_what_systems_leave_in_folders_is_no_video_and_no_annotation(tmp_path):
    junk = ("@eaDir", "$RECYCLE.BIN", "__MACOSX", ".AppleDouble", "#recycle", "System Volume Information", ".Trash-0")
    raw = tmp_path / "raw"
    face_video(raw / "ann" / "talk.mp4", 30)
    for name in junk:
        for folder in (raw / name, raw / "ann" / name):
            folder.mkdir()
            (folder / "talk.mp4").write_bytes(b"a thumbnail")
    (raw / "ann" / "._talk.mp4").write_bytes(b"a resource fork")
    assert [(one.person_id, one.video_id) for one in folders.plain(raw)[0]] == [("ann", "talk")]
    assert folders.scan(raw).sources == {("", "talk"): raw / "ann" / "talk.mp4"}
    with zipfile.ZipFile(tmp_path / "txt.zip", "w") as archive:
        archive.writestr("txt\\id00012\\talk\\00001.txt", annotation("id00012", "talk", range(30)))
        archive.writestr("__MACOSX/txt/id00012/talk/._00001.txt", b"a resource fork")
        archive.writestr("txt/id00012/talk/._00001.txt", b"a resource fork")
    assert list(Annotations(tmp_path / "txt.zip").texts("id00012", "talk")) == ["00001"]


def test_a_split_by_names_is_stable_and_never_without_test_persons(tmp_path):
    for k in range(12):
        (tmp_path / "a" / f"p{k}").mkdir(parents=True)
        (tmp_path / "a" / f"p{k}" / "v.mp4").touch()
    before = {one.person_id: one.split for one in folders.plain(tmp_path / "a")[0]}
    assert set(before.values()) == {"train", "test"}
    (tmp_path / "one" / "p").mkdir(parents=True)
    (tmp_path / "one" / "p" / "v.mp4").touch()
    assert [one.split for one in folders.plain(tmp_path / "one")[0]] == ["test"]


def test_an_empty_folder_says_what_to_do(tmp_path):
    list_videos(tmp_path, ["a"])
    with pytest.raises(FileNotFoundError, match=r"download\.folder"):
        run(tmp_path, source="folder")


def test_the_sample_is_rendered_and_goes_the_same_way(tmp_path):
    tiny = dataclasses.replace(PARAMS.sample, persons=3, test_persons=1, seconds=0.4, video_height=64)
    world = dataclasses.replace(PARAMS, sample=tiny)
    counts = download(world, Places(tmp_path))
    assert counts == {"ok": 3, "unavailable": 0, "failed": 0}
    rows = read_table(tmp_path / "data" / "videos.parquet", "videos").to_pylist()
    assert sorted(row["split"] for row in rows) == ["test", "train", "train"]
    assert all(row["height"] == 64 and row["fps"] == 25 for row in rows)
    assert np.all([(tmp_path / "data" / row["path"]).is_file() for row in rows])


def test_a_frame_replaced_in_a_folder_of_frames_is_another_clip(tmp_path):
    """The folder's own time does not change."""
    folder = tmp_path / "raw" / "test" / "id10270#x#00004.txt#000.mp4"
    for k in range(4):
        write_image(folder / f"{k:07d}.png", picture((64, 64), (8, 8, 56, 56)))
    _, before = run(tmp_path, source="folder")
    changed, time = picture((64, 64), (8, 8, 56, 56)), folder.stat().st_mtime_ns
    changed[10:30] = 0
    write_image(tmp_path / "other.png", changed)
    (folder / "0000002.png").write_bytes((tmp_path / "other.png").read_bytes())
    assert folder.stat().st_mtime_ns == time
    _, after = run(tmp_path, source="folder")
    assert after["x"]["sha256"] != before["x"]["sha256"]
