"""pipeline/pairs.py: exact ratios, honest splits, resume, and every image accounted for."""

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import pairs as stage
from pipeline.common.places import Places
from pipeline.pairs import draw_pairs, pairs
from pipeline.params import load
from pipeline.portraits import report as pictures
from pipeline.portraits.layouts import open_source
from pipeline.portraits.prepare import align
from pipeline.sections import PairsParams
from uniface.data import PairDataset
from uniface.stream import sample_stream

PARAMS = PairsParams(
    source="folder", path="", split="images", test_images=4, pairs_per_image=5, images_per_shard=7, align=False,
    evaluation_pairs="",
)  # fmt: skip
WHOLE = load(Path(__file__).resolve().parents[2] / "params.yaml")


def picture(n: int, size: int = 48) -> np.ndarray:
    """A flat square: red tells which image."""
    return np.full((size, size, 3), (10 * n, 90, 50), np.uint8)


def celeba_hq(folder, count: int = 20, identities: int = 5, offset: int = 100):
    """CelebAMask-HQ's layout with numbers into CelebA that differ from its own; image n shows person n % identities."""
    images = folder / "CelebA-HQ-img"
    images.mkdir(parents=True)
    for n in range(count):
        cv2.imwrite(str(images / f"{n}.png"), picture(n)[..., ::-1])
    mapping = [f"{n:>7} {n + offset - 1:>10} {f'{n + offset:06d}.jpg':>14}" for n in range(count)]
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["    idx   orig_idx   orig_file", *mapping]))
    persons = [f"{n + offset:06d}.jpg {2880 + n % identities}" for n in reversed(range(count))]
    (folder / "identity_CelebA.txt").write_text("\n".join(persons))
    parts = [f"{n + offset:06d}.jpg {2 * (n % identities < 2)}" for n in range(count)]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts))
    return folder


@pytest.fixture
def run(tmp_path):
    """Runs the stage on tmp_path/raw with changed params; returns the report and remembers the out folder."""

    def go(source="folder", path=None, seed=0, image_size=32, out="out", **changes) -> dict:
        settings = replace(PARAMS, source=source, path=str(tmp_path / (path or "raw")), **changes)
        report = pairs(replace(WHOLE, pairs=settings, seed=seed, image_size=image_size), Places(tmp_path), threads=2)
        shutil.rmtree(tmp_path / out, ignore_errors=True)
        shutil.move(tmp_path / "data/pairs", tmp_path / out)
        return report

    return go


def table(path) -> pd.DataFrame:
    return pd.read_parquet(path)


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- the draw


@st.composite
def people(draw):
    count = draw(st.integers(2, 40))
    codes = draw(hnp.arrays(np.int64, count, elements=st.integers(0, draw(st.integers(1, 12)))))
    codes[0], codes[-1] = 0, 1
    return codes


@settings(max_examples=60, deadline=None)
@given(people(), st.integers(1, 3), st.integers(0, 2**32))
def test_draw_properties(codes, rounds, seed):
    drawn = list(draw_pairs(codes, 5 * rounds, np.random.default_rng(seed)))
    source, target = (np.concatenate([part[side] for part in drawn]) for side in range(2))
    same = source == target
    assert len(source) == 5 * rounds * len(codes)
    windows = np.lib.stride_tricks.sliding_window_view(same, 5)
    assert (windows.sum(1) == 1).all()  # in every five consecutive rows, aligned or not
    assert (codes[source[~same]] != codes[target[~same]]).all()
    assert (np.bincount(source, minlength=len(codes)) == 5 * rounds).all()
    assert (np.bincount(source[same], minlength=len(codes)) == rounds).all()
    if 2 * np.bincount(codes).max() <= len(codes):
        assert (np.bincount(target, minlength=len(codes)) == 5 * rounds).all()
    again = list(draw_pairs(codes, 5 * rounds, np.random.default_rng(seed)))
    assert all(np.array_equal(a, b) for x, y in zip(drawn, again, strict=True) for a, b in zip(x, y, strict=True))


def test_two_halves_still_pair_and_one_person_does_not():
    codes = np.repeat([0, 1], 6)
    for source, target in draw_pairs(codes, 20, np.random.default_rng(0)):
        assert (np.bincount(target) == 5).all() and ((source == target) | (codes[source] != codes[target])).all()
    with pytest.raises(ValueError, match="two identities"):
        next(draw_pairs(np.zeros(4, int), 5, np.random.default_rng(0)))


# --- the stage


def test_the_tables_are_what_the_images_are(run, tmp_path):
    celeba_hq(tmp_path / "raw")
    report = run()
    assert report == json.loads((tmp_path / "reports/pairs.json").read_text())
    assert report["layout"] == "CelebAMask-HQ" and report["images"] == {"found": 20, "kept": 20, "rejected": 0}
    assert report["split"] == {"rule": "images", "train": 16, "test": 4}
    assert report["identities"] == {"train": 5, "test": 4, "in_both_splits": 4, "images_without": 0}
    assert report["pairs"] == {"train": 80, "test": 20}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"images-{n:05d}.parquet" for n in range(3)), "index.parquet", "test.parquet", "train.parquet",
    ]  # fmt: skip
    dataset = PairDataset(tmp_path / "out", "train")
    for k in range(len(dataset)):
        source, target, same, ids = dataset.pair(k)
        assert (same, same) == (k % 5 == 0, ids[0] == ids[1])
        assert [source[3, 3, 0], target[3, 3, 0]] == [10 * int(i) for i in ids] and source.shape == (32, 32, 3)
        assert [dataset.identity(i) for i in ids] == [str(2880 + int(i) % 5) for i in ids]
        assert same or dataset.identity(ids[0]) != dataset.identity(ids[1])
    train, test = ({*table(tmp_path / f"out/{s}.parquet").source_id} for s in ("train", "test"))
    assert train == {str(n) for n in range(16)} and test == {"16", "17", "18", "19"}
    batch = next(sample_stream(dataset, 0, 10))
    assert batch["same"].tolist() == [True, *[False] * 4] * 2
    assert not (tmp_path / "work/pairs").exists() or not list((tmp_path / "work/pairs").iterdir())


def test_same_seed_same_bytes_other_seed_other_pairs(run, tmp_path):
    celeba_hq(tmp_path / "raw")
    run(out="one"), run(out="two"), run(out="three", seed=1)
    one, two, three = (content(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert (
        one["train.parquet"] != three["train.parquet"] and one["images-00000.parquet"] == three["images-00000.parquet"]
    )


@pytest.mark.parametrize(("rule", "crossing"), [("identity", 0), ("partition", 0), ("images", 4)])
def test_no_image_is_in_both_splits_and_persons_only_if_by_images(run, tmp_path, rule, crossing):
    celeba_hq(tmp_path / "raw")
    report = run(split=rule, test_images=5)
    rows = table(tmp_path / "out/index.parquet")
    by_split = [set(rows.image_id[rows.split == split]) for split in ("train", "test")]
    assert not by_split[0] & by_split[1] and len(by_split[0] | by_split[1]) == 20
    assert (report["identities"]["in_both_splits"] > 0) == (crossing > 0)
    for split, images in zip(("train", "test"), by_split, strict=True):
        used = table(tmp_path / f"out/{split}.parquet")
        assert {*used.source_id, *used.target_id} == images
    if rule == "partition":
        assert by_split[1] == {str(n) for n in range(20) if n % 5 < 2}


def test_a_killed_run_goes_on_where_it_was(run, tmp_path, monkeypatch):
    celeba_hq(tmp_path / "raw")
    run(out="whole")
    real, seen = stage.prepare, []

    def dies(*arguments):
        if len(seen) == 16:  # in the third shard
            raise KeyboardInterrupt
        seen.append(1)
        return real(*arguments)

    monkeypatch.setattr(stage, "prepare", dies)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not (tmp_path / "out").exists()
    seen.clear()
    monkeypatch.setattr(stage, "prepare", lambda *arguments: (seen.append(1), real(*arguments))[1])
    run()
    assert len(seen) == 6 and content(tmp_path / "out") == content(tmp_path / "whole")


def test_zip_parquet_and_nested_folder_give_the_same_pairs(run, tmp_path):
    raw = celeba_hq(tmp_path / "raw")
    run(out="folder", split="partition")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in raw.rglob("*.*"):
            file.write(path, f"CelebAMask-HQ/{path.relative_to(raw)}")
    run(source="zip", path=tmp_path / "x.zip", out="zip", split="partition")
    (tmp_path / "deep").mkdir()
    (raw / "CelebA-HQ-img").rename(tmp_path / "deep" / "CelebA-HQ-img")
    (tmp_path / "nested").mkdir()
    (tmp_path / "deep").rename(tmp_path / "nested" / "CelebAMask-HQ")
    for text in raw.glob("*.txt"):
        text.rename(tmp_path / "nested" / text.name)
    run(path=tmp_path / "nested", out="deep", split="partition")
    folder = content(tmp_path / "folder")
    for name in ("zip", "deep"):
        other = content(tmp_path / name)
        assert all(other[file] == folder[file] for file in folder if file != "index.parquet")  # it has the files' names
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": None}, "identity": int(path.stem) % 5, "image_id": path.stem}
        for path in (tmp_path / "nested").rglob("*.png")
    ]
    pd.DataFrame(rows).sort_values("image_id", key=lambda s: s.astype(int)).to_parquet(
        tmp_path / "x.parquet", row_group_size=3
    )
    report = run(source="parquet", path=tmp_path / "x.parquet", out="parquet")
    assert report["images"]["kept"] == 20 and report["identities"]["train"] == 5
    assert PairDataset(tmp_path / "parquet", "train").image("7")[0, 0, 0] == 70


def test_folders_csv_and_bare_images(run, tmp_path):
    for n in range(16):
        folder = tmp_path / "people" / f"p{n // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{n % 4}.png"), picture(n))
    report = run(path=tmp_path / "people", out="persons", split="identity", test_images=5)
    assert report["layout"] == "one folder per identity" and report["split"]["test"] == 8
    assert report["identities"] == {"train": 2, "test": 2, "in_both_splits": 0, "images_without": 0}
    (tmp_path / "people" / "identities.csv").write_text(
        "image,identity\n" + "".join(f"p{n // 4}/{n % 4}.png,x{n % 2}\n" for n in range(12))  # four are not named
    )
    report = run(path=tmp_path / "people", out="csv")
    assert report["layout"] == "identities.csv" and report["identities"]["images_without"] == 4
    assert report["identities"]["train"] == 2
    bare = tmp_path / "bare"
    bare.mkdir()
    for n in range(12):
        cv2.imwrite(str(bare / f"{n}.png"), picture(n))
    report = run(path=bare, out="alone")
    assert report["layout"] == "images alone" and report["identities"]["images_without"] == 12
    assert report["identities"]["train"] == 8 and "each image is its own" in report["identities"]["note"]
    _, items, _ = open_source("folder", bare)
    assert [item.image_id for item in items] == [str(n) for n in range(12)]  # 10 behind 9


def draw(path, n: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(n)[..., ::-1])


def test_what_systems_leave_in_folders_and_zips_is_no_picture_and_no_person(tmp_path):
    junk = ("@eaDir", "$RECYCLE.BIN", "__MACOSX", ".AppleDouble", "#recycle", "System Volume Information", ".Trash-0")
    for n in range(4):
        draw(tmp_path / "raw" / f"p{n // 2}" / f"{n}.png", n)
    for name in junk:
        draw(tmp_path / "raw" / name / "0.png")
        draw(tmp_path / "raw" / "p0" / name / "0.png")
    draw(tmp_path / "raw" / "p0" / "._0.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in (tmp_path / "raw").rglob("*.png"):
            file.write(path, path.relative_to(tmp_path / "raw"))
    expected = [(f"p{n // 2}/{n}.png", f"p{n // 2}") for n in range(4)]
    for kind, path in (("folder", tmp_path / "raw"), ("zip", tmp_path / "x.zip")):
        _, items, layout = open_source(kind, path)
        assert [(item.name, item.identity) for item in items] == expected
        assert layout == ("one folder per identity", "all 1 folders, as p0")


def test_a_zip_with_backslashes_has_folders(run, tmp_path):
    raw = celeba_hq(tmp_path / "raw")
    run(out="folder")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in raw.rglob("*.*"):
            file.write(path, "CelebAMask-HQ\\" + str(path.relative_to(raw)).replace("/", "\\"))
    assert "\\" in zipfile.ZipFile(tmp_path / "x.zip").namelist()[0]
    report = run(source="zip", path=tmp_path / "x.zip", out="zip")
    assert report["layout"] == "CelebAMask-HQ" and report["identities_from"] == "identity_CelebA.txt"
    assert table(tmp_path / "zip/train.parquet").equals(table(tmp_path / "folder/train.parquet"))


def test_params_choose_which_of_two_folders_names_the_person(run, tmp_path):
    for n in range(16):
        draw(tmp_path / "raw" / f"actor{n // 8}" / f"{2018 + n // 4 % 2}" / f"{n}.png", n)
    report = run(test_images=6)
    assert report["identities_from"] == (
        "all 2 folders, as actor0/2018; pairs.level: 1 takes the outermost alone, as actor0"
    )
    assert set(table(tmp_path / "out/index.parquet").identity) == {
        f"actor{n}/{year}" for n in range(2) for year in (2018, 2019)
    }
    _, items, layout = open_source("folder", tmp_path / "raw", level=1)
    assert {item.identity for item in items} == {"actor0", "actor1"} and layout.identity == "folder 1 of 2, as actor0"
    assert {item.identity for item in open_source("folder", tmp_path / "raw", level=2)[1]} == {"2018", "2019"}
    with pytest.raises(ValueError, match=r"pairs.level is 3, but the images of .* lie in 2 folders"):
        open_source("folder", tmp_path / "raw", level=3)


def test_ffhqs_folders_of_a_thousand_are_no_persons_unless_told_so(tmp_path):
    for n in (0, 1, 999, 1000, 1001, 2345):
        draw(tmp_path / "raw" / "images1024x1024" / f"{n // 1000 * 1000:05d}" / f"{n:05d}.png")
    _, items, layout = open_source("folder", tmp_path / "raw")
    assert {item.identity for item in items} == {None} and "no persons (pairs.level: 1" in layout.name
    assert {item.identity for item in open_source("folder", tmp_path / "raw", level=1)[1]} == {
        "00000",
        "01000",
        "02000",
    }


def parquet(path, columns: dict, first: int = 0) -> None:
    """As the Hugging Face hub has them: image is a struct of bytes and path."""
    count = len(next(iter(columns.values())))
    cells = [cv2.imencode(".png", picture(first + n)[..., ::-1])[1].tobytes() for n in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"image": [{"bytes": cell, "path": None} for cell in cells], **columns}).to_parquet(path)


def test_celeba_hqs_label_is_no_person_and_several_files_are_one_set(run, tmp_path):
    for n in range(3):
        parquet(tmp_path / f"raw/data/train-{n:05d}-of-00003.parquet", {"label": [0, 1, 0, 1, 1]}, 5 * n)
    parquet(tmp_path / "raw/data/validation-00000.parquet", {"label": [0, 1]}, 15)
    report = run(source="parquet", pattern="train-*.parquet")
    assert report["images"]["kept"] == 15 and report["identities"]["images_without"] == 15
    assert report["identities_from"] is None and report["identities"]["train"] == 11
    assert PairDataset(tmp_path / "out", "train").image("data/train-00002-of-00003/0")[0, 0, 0] == 100
    assert run(source="parquet")["images"]["kept"] == 17
    with pytest.raises(FileNotFoundError, match=r"holds no x\*.parquet \(pairs.pattern\)"):
        run(source="parquet", pattern="x*.parquet")


def test_a_column_of_persons_is_named_by_its_name_or_by_params(run, tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    parquet(path, {"who": [f"p{n % 4}" for n in range(16)], "person_id": [None, *range(15)]})
    report = run(source="parquet", path=path)
    assert report["identities_from"] == "the column person_id" and report["identities"]["images_without"] == 1
    found = set(table(tmp_path / "out/index.parquet").identity)
    assert found == {"#0", *(str(n) for n in range(15))}  # pandas makes 0.0 and nan of them
    report = run(source="parquet", path=path, identity_column="who")
    assert report["identities_from"] == "the column who" and report["identities"]["train"] == 4
    with pytest.raises(ValueError, match=r"pairs\.identity_column is 'name'"):
        run(source="parquet", path=path, identity_column="name")
    parquet(path, {"person": [f"p{n % 4}" for n in range(16)]})
    monkeypatch.setattr(stage, "PER_PERSON", 4)
    with pytest.raises(ValueError, match="16 images of 4 persons by the column person, 'p0' first: classes"):
        run(source="parquet", path=path)
    assert run(source="parquet", path=path, identity_column="person")["identities"]["train"] == 4  # it was named


def test_a_picture_replaced_under_its_name_size_and_time_is_made_anew(run, tmp_path, monkeypatch):
    """A killed run goes on with what it has only as long as the pictures are the same."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for n in range(12):
        cv2.imwrite(str(raw / f"{n}.bmp"), picture(n)[..., ::-1])
    monkeypatch.setattr(stage, "_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # all shards written
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    before = (raw / "3.bmp").stat()
    cv2.imwrite(str(raw / "3.bmp"), picture(20)[..., ::-1])
    os.utime(raw / "3.bmp", ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert (raw / "3.bmp").stat().st_size == before.st_size
    run()
    assert PairDataset(tmp_path / "out", "train").image("3")[0, 0, 0] == 200


def test_listed_pairs_become_a_table(run, tmp_path):
    celeba_hq(tmp_path / "raw")
    listed = tmp_path / "list.csv"
    listed.write_text("source,target\n17,3\n4,4\n")
    assert run(evaluation_pairs=str(listed))["pairs"]["evaluation"] == 2
    assert PairDataset(tmp_path / "out", "evaluation").pair(0)[3] == ("17", "3")
    listed.write_text("source,target\n17,999\n")
    with pytest.raises(ValueError, match="'999' first"):
        run(evaluation_pairs=str(listed))


def test_shards_open_in_pandas_and_duckdb_with_one_line_each(run, tmp_path):
    celeba_hq(tmp_path / "raw")
    run()
    frame = pd.read_parquet(tmp_path / "out" / "images-00000.parquet")
    assert list(frame.columns) == ["image_id", "identity", "split", "image"] and len(frame) == 7
    assert cv2.imdecode(np.frombuffer(frame.image[6], np.uint8), 1).shape == (32, 32, 3)
    found = duckdb.sql(
        f"select split, count(*), min(octet_length(image)) > 60 from '{tmp_path}/out/images-*.parquet' group by 1"
    )
    assert sorted(found.fetchall()) == [("test", 4, True), ("train", 16, True)]
    assert duckdb.sql(f"select avg(same::int) from '{tmp_path}/out/train.parquet'").fetchall() == [(0.2,)]


def test_a_sheet_of_pairs(run, tmp_path):
    celeba_hq(tmp_path / "raw")
    run()
    pictures.main([str(tmp_path / "out"), "-o", str(tmp_path / "pairs.png"), "--count", "10"])
    drawn = cv2.imread(str(tmp_path / "pairs.png"))[..., ::-1]
    assert drawn.shape == (2 * 146 + 8, 5 * 256 + 4 * 8, 3)
    first, _ = PairDataset(tmp_path / "out", "train").ids(0)
    assert drawn[60, 60, 0] == drawn[60, 188, 0] == 10 * int(first)  # a same pair
    with pytest.raises(SystemExit, match="not found"):
        pictures.main([str(tmp_path / "nowhere"), "-o", str(tmp_path / "x.png")])


# --- faults of layouts


def test_layout_errors_say_what_is_expected(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        run()
    (tmp_path / "raw").mkdir()
    with pytest.raises(FileNotFoundError, match="is empty: put the images there"):
        run()
    (tmp_path / "raw" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds no images but 1 files \(notes.txt\); expected one of"):
        run()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("CelebA-HQ-to-CelebA-mapping.txt", "000001.jpg 2880\n", "expected the columns idx orig_idx orig_file"),
        ("CelebA-HQ-to-CelebA-mapping.txt", "idx orig_idx orig_file\nx y\n", "line 2"),
        ("CelebA-HQ-to-CelebA-mapping.txt", "idx orig_idx orig_file\n0 1 000001.jpg\n", "belong together"),
        ("CelebA-HQ-to-CelebA-mapping.txt", None, "no CelebA-HQ-to-CelebA-mapping.txt"),
        ("identity_CelebA.txt", "000001.jpg\n", "identity_CelebA.txt, line 1"),
        ("list_eval_partition.txt", "000001.jpg 7\n", "expected 0, 1 or 2"),
    ],
)
def test_wrong_text_files(run, tmp_path, file, text, message):
    raw = celeba_hq(tmp_path / "raw")
    (raw / file).unlink()
    if text is not None:
        (raw / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        run()


def test_zip_faults(run, tmp_path):
    path = tmp_path / "x.zip"
    with pytest.raises(FileNotFoundError, match="put the zip there"):
        run(source="zip", path=path)
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a readable zip"):
        run(source="zip", path=path)
    for name in ("../x.png", "/x.png", "a/../../x.png", "c:/x.png"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, b"x")
        with pytest.raises(ValueError, match="leaves its folder"):
            run(source="zip", path=path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("folder/", b"")
    with pytest.raises(ValueError, match="no files"):
        run(source="zip", path=path)


def test_parquet_faults(run, tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a readable parquet"):
        run(source="parquet", path=path)
    pd.DataFrame({"picture": [b"x"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"columns \['picture'\]; expected `image`"):
        run(source="parquet", path=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_images": 20}, "test_images is 20"),
        ({"test_images": 1}, "test split .* two identities"),
        ({"split": "partition"}, "no list_eval_partition.txt"),
        ({"evaluation_pairs": "nowhere.csv"}, "nowhere.csv not found"),
        ({"path": "data/pairs/raw"}, "keep the images elsewhere"),
    ],
)
def test_impossible_settings(run, tmp_path, change, message):
    (celeba_hq(tmp_path / "raw") / "list_eval_partition.txt").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**change)


# --- the sample


def test_the_sample_is_the_folder_source_with_its_held_out_persons(tmp_path, monkeypatch):
    from pipeline.sample.world import World

    params = WHOLE
    small = replace(params.sample, scale=1, portraits=12, portrait_identities=6, test_identities=2, portrait_size=32)
    params = replace(params, sample=small, pairs=replace(params.pairs, path=str(tmp_path / "raw")), image_size=32)
    report = pairs(replace(params, compute=replace(params.compute, crop_workers=1)), Places(tmp_path))
    assert report["images"]["kept"] == 12 and report["identities"]["in_both_splits"] == 0
    dataset = PairDataset(tmp_path / "data/pairs", "test")
    for portrait in World(params.sample, params.seed).portraits:
        assert dataset.identity(portrait.image_id) == str(portrait.identity)
        used = portrait.image_id in {dataset.ids(k)[0] for k in range(len(dataset))}
        assert used == (portrait.split == "test")


def test_alignment_puts_eyes_and_mouth_where_ffhq_does(tmp_path):
    """A face turned by 30 degrees, twice as large and shifted comes out like the upright one."""
    points = np.float32([[100, 110], [156, 110], [128, 140], [106, 170], [150, 170]])
    image = np.zeros((512, 512, 3), np.uint8)
    turned = cv2.getRotationMatrix2D((128, 128), 30, 1.6)
    turned[:, 2] += (100, 120)
    moved = points @ turned[:, :2].T.astype(np.float32) + turned[:, 2].astype(np.float32)
    for point in moved:
        cv2.circle(image, tuple(round(float(x)) for x in point), 6, (255, 255, 255), -1)
    out = align(image, SimpleNamespace(landmarks=moved))
    side = out.shape[0]
    assert abs(side - 2 * 1.6 * max(56 * 2, 60 * 1.8)) < 2 and out.shape == (side, side, 3)
    _, _, _, centres = cv2.connectedComponentsWithStats((out[..., 0] > 100).astype(np.uint8))
    found = centres[1:][np.lexsort((centres[1:, 0], centres[1:, 1].round(-1)))] / side
    # eyes level about the middle; the eyes' middle is a tenth of the way to the mouth above the centre
    expected = ((points - [128, 116]) / (2 * 112) + 0.5)[[0, 1, 2, 3, 4]]
    assert np.abs(found - expected).max() < 0.01
