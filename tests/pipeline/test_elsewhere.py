"""Shards in a store: the same bytes as locally, and what a training and its workers make of them."""

import dataclasses
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_videos import GreenDetector
from small_crops import ONE, PARAMS, SIZE, VIDEOS, WHOLE, contents, lay_out

from pipeline.common import bucket
from pipeline.common.files import sha256
from pipeline.common.places import Places
from pipeline.crop import crop
from pipeline.pairs import pairs
from pipeline.training.job import inputs, make_job
from pipeline.videos import elsewhere
from pipeline.videos.clips import VideoJob
from uniface.data import ClipDataset, PairDataset
from uniface.store import Disk, StoreError, read
from uniface.tables import ELSEWHERE, read_table


def run_stage(root: Path, url: str = "") -> dict:
    compute = dataclasses.replace(ONE, data=url)
    settings = dataclasses.replace(WHOLE, image_size=SIZE, crop=PARAMS, compute=compute)
    return crop(settings, Places(root), GreenDetector)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path, str]:
    """The clips of the same videos, here and in a store."""
    here, there, store = (tmp_path_factory.mktemp(name) for name in ("here", "there", "store"))
    for root, url in ((here, ""), (there, store.as_uri())):
        lay_out(root, VIDEOS, broken="d")
        run_stage(root, url)
    return here / "data" / "clips", there / "data" / "clips", store.as_uri()


def test_shards_in_a_store_have_the_bytes_that_they_have_here(both):
    here, there, url = both
    local = contents(here)
    kept = contents(there)
    assert set(kept) == {"index.parquet", "vox-metadata.csv", ELSEWHERE}
    assert all(kept[name] == local[name] for name in ("index.parquet", "vox-metadata.csv"))
    rows = read_table(there / ELSEWHERE, "shards").to_pylist()
    assert [row["name"] for row in rows] == sorted(name for name in local if name.startswith(("train-", "test-")))
    for row in rows:
        assert row["url"].startswith(f"{url}/clips/") and row["bytes"] == len(local[row["name"]])
        assert read(row["url"]) == local[row["name"]] and row["sha256"] == sha256(here / row["name"])
    reports = [(folder.parents[1] / "reports" / "clips.json").read_text() for folder in both[:2]]
    assert reports[0] == reports[1]


def test_a_second_run_asks_the_store_for_what_is_there(both, monkeypatch):
    _, there, url = both
    before = contents(there)
    monkeypatch.setattr("pipeline.videos.clips.crop_video", lambda *rest: pytest.fail("cropped again"))
    monkeypatch.setattr(
        bucket.store, "write", lambda url, content: content == b"uniface" or pytest.fail(f"wrote {url}")
    )
    run_stage(there.parents[1], url)
    assert contents(there) == before


def test_a_data_set_reads_the_store_once_and_then_the_disk(both, tmp_path, monkeypatch):
    here, there, _ = both
    disk = Disk(str(tmp_path / "cache"), 1 << 20)
    local, far = ClipDataset(here, "train", 0), ClipDataset(there, "train", 0, disk)
    videos = [far.video(i) for i in range(len(far))]
    assert videos == [local.video(i) for i in range(len(local))]
    assert far.frame(1, 3).tolist() == local.frame(1, 3).tolist()
    again = ClipDataset(there, "train", 0, disk)
    monkeypatch.setattr("uniface.tables.opened", lambda url: pytest.fail(f"opened {url}"))
    assert [again.video(i) for i in range(len(again))] == videos


def test_a_video_travels_with_its_job_and_its_reasons_stay(tmp_path):
    """Files and folders of ready clips, and what is no video."""
    (tmp_path / "v.mp4").write_bytes(b"one")
    (tmp_path / "ready").mkdir()
    for name in ("00001.mp4", "00002#1.mp4"):
        (tmp_path / "ready" / name).write_bytes(name.encode())
    seen = []

    def make():
        def crop_one(job):
            path = Path(job.path)
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            seen.append((path.name, {file.name: file.read_bytes() for file in files if file.exists()}))
            return []

        return crop_one

    worker = elsewhere.Elsewhere(make, (tmp_path / "store").as_uri())
    for name in ("v.mp4", "ready", "lost.mp4"):
        worker(elsewhere.send(VideoJob("id1", "v", "train", str(tmp_path / name), {}, ())))
    assert seen == [
        ("v.mp4", {"v.mp4": b"one"}),
        ("ready", {"00001.mp4": b"00001.mp4", "00002#1.mp4": b"00002#1.mp4"}),
        ("lost.mp4", {}),
    ]


def test_workers_elsewhere_get_copies_of_what_they_need(both, tmp_path, monkeypatch):
    _, there, url = both
    root = there.parents[1]
    (root / "data/weights").mkdir(exist_ok=True)
    (root / "data/weights/weights.json").write_text("{}")
    job = make_job("reenactment", WHOLE, Places(root))
    found = inputs(job, url)
    monkeypatch.setattr(bucket.tempfile, "gettempdir", lambda: str(tmp_path))
    local = found.of(job)
    assert Path(local.data).is_relative_to(tmp_path) and contents(Path(local.data)) == contents(there)
    assert contents(Path(local.nets)) == {"weights.json": b"{}"}
    assert inputs(job, "").of(job) == job  # one machine, or a folder that all see
    (there / ELSEWHERE).rename(tmp_path / ELSEWHERE)
    try:
        with pytest.raises(ValueError, match=r"the shards of data/clips lie on this machine.*single-item crop"):
            inputs(job, url)
    finally:
        (tmp_path / ELSEWHERE).rename(there / ELSEWHERE)


def test_a_place_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for url in ((tmp_path / "file").as_uri(), "nowhere://bucket/prefix"):
        with pytest.raises(StoreError) as caught:
            bucket.check(url)
        assert "\n" not in str(caught.value) and url in str(caught.value)


def test_a_project_has_a_name_of_its_own(tmp_path):
    first, second = bucket.project_id(tmp_path / "a"), bucket.project_id(tmp_path / "b")
    assert first != second and bucket.project_id(tmp_path / "a") == first


def test_a_cache_stays_below_its_limit_and_forgets_the_oldest(tmp_path):
    disk = Disk(str(tmp_path), 100_000)
    for n in range(50):
        disk.put(f"cell {n}", bytes(5_000))
        os.utime(disk.path(f"cell {n}"), (n, n))
        assert disk.get("cell 0") is not None  # used all the time
    held = [n for n in range(50) if disk.path(f"cell {n}").exists()]
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 100_000
    assert held[0] == 0 and held[-1] == 49 and held[1:] == list(range(held[1], 50)) and disk.get("cell 3") is None


def test_a_disk_that_takes_nothing_costs_no_sample(tmp_path):
    (tmp_path / "file").write_text("in the way")
    disk = Disk(str(tmp_path / "file"), 1 << 20)
    disk.put("cell", b"x")
    assert disk.get("cell") is None


def test_shards_in_a_store_are_the_same_pairs(both, tmp_path):
    """Stage 2's portraits: the local tables alone say which image is where."""
    _, _, url = both
    found = {}
    for root, place in ((tmp_path / "here", ""), (tmp_path / "there", url)):
        images = root / "raw"
        for n in range(20):
            (images / f"p{n % 5}").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(images / f"p{n % 5}" / f"{n}.png"), np.full((32, 32, 3), 10 * n, np.uint8))
        settings = dataclasses.replace(
            WHOLE.pairs, source="folder", path=str(images), split="images", test_images=6, images_per_shard=7
        )
        compute = dataclasses.replace(ONE, data=place)
        pairs(dataclasses.replace(WHOLE, pairs=settings, image_size=32, compute=compute), Places(root), threads=1)
        found[place] = root / "data" / "pairs"
    names = {path.name for path in found[url].iterdir()}
    assert names == {"index.parquet", "train.parquet", "test.parquet", ELSEWHERE}
    local, far = (
        PairDataset(folder, "train", 0, Disk(str(tmp_path / "cache"), 1 << 20)) for folder in (found[""], found[url])
    )
    assert len(local) == len(far) == 70
    for k in range(len(local)):
        (*mine, same, ids), (*theirs, other, names) = local.pair(k), far.pair(k)
        assert same == other and ids == names and np.array_equal(mine, theirs)
        assert local.identity(ids[0]) == far.identity(ids[0])
