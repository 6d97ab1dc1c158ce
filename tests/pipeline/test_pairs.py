"""The stage pairs: exact ratios, honest splits, resume, and every image accounted for."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import cv2
import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_portraits import WHOLE, celeba_hq, content, picture, runner, table

from pipeline import pairs as stage
from pipeline.common.places import Places
from pipeline.pairs import draw_pairs, pairs
from pipeline.portraits import report as pictures
from pipeline.portraits.prepare import align
from uniface.data import PairDataset
from uniface.stream import sample_stream


@pytest.fixture
def run(tmp_path):
    return runner(tmp_path)


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
