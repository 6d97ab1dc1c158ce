"""pipeline/common/files.py, uniface/files.py: digests, atomic writes, work folders."""

import json
import os
import re
from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.common import files
from pipeline.common.files import (
    Notes,
    atomic_write,
    contents,
    digest,
    publish,
    read_json,
    sha256,
    stamps,
    work_folder,
    write_json,
)
from pipeline.common.nets import read_manifest


@dataclass(frozen=True)
class Settings:
    a: int
    b: tuple


def test_digest_goes_by_value_not_by_order_or_type_of_sequence():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": (2, 3), "a": 1})
    assert digest(Settings(1, (2,))) == digest(Settings(1, (2,))) != digest(Settings(1, (3,)))
    assert digest(1, 2) != digest(12) and digest("1") != digest(1)
    assert len(digest()) == 12


def test_digest_of_files_goes_by_bytes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x")
    two.write_bytes(b"x")
    assert digest(one) == digest(two)
    before = digest(tmp_path)
    two.write_bytes(b"y")
    assert digest(one) != digest(two) and digest(tmp_path) != before
    assert sha256(one) == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def test_contents_reads_a_settled_file_once_and_sees_every_change(tmp_path, monkeypatch):
    folder, memory, read = tmp_path / "data", tmp_path / "memory.json", []
    (folder / "deep").mkdir(parents=True)
    one, two = folder / "one", folder / "deep" / "two"
    one.write_bytes(b"x")
    two.write_bytes(b"y")
    monkeypatch.setattr(files, "sha256", lambda path: (read.append(path.name), sha256(path))[1])
    first = contents(folder, memory)
    assert first == {"one": sha256(one), "deep/two": sha256(two)} and len(read) == 2
    monkeypatch.setattr(files, "SETTLED", -1.0)  # as if all were old
    assert contents(folder, memory) == first and len(read) == 4  # too fresh to be remembered before
    assert contents(folder, memory) == first and len(read) == 4
    os.utime(one)
    assert contents(folder, memory) == first and read[4:] == ["one"]
    time = two.stat().st_mtime_ns
    two.write_bytes(b"z")
    os.utime(two, ns=(time, time))  # the same size, inode and time of writing
    assert contents(folder, memory)["deep/two"] == sha256(two) != first["deep/two"]
    (folder / "new").write_bytes(b"x")
    one.unlink()
    assert sorted(contents(folder, memory)) == ["deep/two", "new"]
    assert contents(tmp_path / "nowhere", memory) == {}


def test_a_hard_link_more_is_no_change_and_another_file_under_the_name_is(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"x")
    os.link(path, tmp_path / "first")
    before = stamps(path)
    os.link(path, tmp_path / "second")
    assert stamps(path) == before
    other.write_bytes(b"y")
    os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)
    os.replace(other, path)
    assert stamps(path) != before


def test_atomic_write_leaves_the_old_file_or_the_whole_new_one(tmp_path):
    path = tmp_path / "deep" / "x.json"
    with atomic_write(path) as part:
        assert part.suffix == ".json" and not path.exists()
        part.write_text("1")
    with pytest.raises(RuntimeError), atomic_write(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "1" and [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_broken_json_file_is_named(tmp_path):
    for name, content in (("x.json", b'{"a": '), ("weights.json", b"\xff\xfe{")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{re.escape(name)} is not JSON"):
            read_json(tmp_path / name)
    with pytest.raises(ValueError, match=r"weights\.json is not JSON"):
        read_manifest(tmp_path)


def test_a_broken_memory_of_contents_is_no_memory(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("a")
    for broken in ("{", "[1]", '"x"'):
        (tmp_path / "memory.json").write_text(broken)
        assert contents(tmp_path / "data", tmp_path / "memory.json") == {"a": sha256(tmp_path / "data" / "a")}


def test_write_json_knows_numpy_and_refuses_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": np.float32(0.5), "b": np.arange(2), "c": tmp_path / "y"})
    assert json.loads((tmp_path / "x.json").read_text())["b"] == [0, 1]
    with pytest.raises(ValueError, match="null"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text())["a"] == 0.5


def test_publish_moves_the_work_to_the_place_of_the_old_folder(tmp_path):
    work, out = work_folder("stage", 1, work=tmp_path / "work"), tmp_path / "out"
    assert work != work_folder("stage", 2, work=tmp_path / "work")
    (work / "a").write_text("new")
    (work / ".b.123.part").write_text("half")
    out.mkdir()
    (out / "old").write_text("old")
    publish(work, out)
    assert [p.name for p in out.iterdir()] == ["a"] and not work.exists()
    assert (out / "a").read_text() == "new"


def test_notes_of_another_version_are_set_aside_and_counted_once(tmp_path, capsys):
    notes, files = Notes(2), [tmp_path / name for name in ("a.json", "b.json", "c.json", "d.json")]
    Notes(1).write(files[0], {"key": 1})
    files[1].write_text('{"key": 1}')
    files[2].write_bytes(b"\xff half")
    notes.write(files[3], {"key": 1})
    for _ in range(2):
        assert [notes.read(path) and notes.read(path)["key"] for path in files] == [None, None, None, 1]
    assert notes.read(tmp_path / "none.json") is None
    notes.tell("crop", "these videos were cropped again")
    notes.tell("crop", "these videos were cropped again")
    assert capsys.readouterr().out == "crop: 3 notes of another version set aside: these videos were cropped again\n"
