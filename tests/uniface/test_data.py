"""uniface/data.py, uniface/tables.py: the right frames, streams made from (seed, step), corrupt bytes counted."""

import pickle
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import pytest
import torch

from pipeline import schemas
from uniface.data import ClipDataset, PairDataset, read_frames
from uniface.stream import sample_stream
from uniface.tables import CorruptMedia, read_table

SIZE, FRAMES = 32, 12


def mp4(path, clip: int, frames: int = FRAMES) -> bytes:
    """Flat frames: red says which clip, green which frame."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1", "g": "4"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv444p"
        for n in range(frames):
            image = np.full((SIZE, SIZE, 3), (20 * clip, 20 * n, 128), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    return path.read_bytes()


def decoded(image: np.ndarray) -> tuple[int, int]:
    """Clip and frame number of a flat frame."""
    red, green, _ = image.reshape(-1, 3).mean(0)
    return round(red / 20), round(green / 20)


def write_clips(folder, videos: list[bytes], frames: int = FRAMES, per_shard: int = 3) -> None:
    rows = [
        {
            "person_id": f"id{n:05d}", "video_id": f"video{n:06d}", "utterance": "00001", "chunk": 0, "start": 0,
            "end": frames, "box": [0.0, 0.0, 32.0, 32.0], "width": 64, "height": 48, "fps": 25.0, "frames": frames,
        }
        for n in range(len(videos))
    ]  # fmt: skip
    index = []
    for first in range(0, len(videos), per_shard):
        part = list(range(first, min(first + per_shard, len(videos))))
        shard = f"train-{first // per_shard:05d}.parquet"
        schemas.write(folder / shard, [rows[n] | {"video": videos[n]} for n in part], schemas.CLIPS)
        kept = {"split": "train", "status": "kept", "reason": None, "fit": None, "bad_lines": 0, "shard": shard}
        index += [rows[n] | kept | {"row": i} for i, n in enumerate(part)]
    short = kept | {"status": "short", "reason": "12 of 64 frames", "shard": None, "row": None}
    schemas.write(folder / "index.parquet", [*index, rows[0] | short], schemas.CLIP_INDEX)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("videos")
    return [mp4(folder / f"{n}.mp4", n) for n in range(7)]


@pytest.fixture(scope="module")
def clips(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, videos)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for shard in range(2):
        rows = []
        for n in range(5 * shard, 5 * shard + 5):
            image = np.full((SIZE, SIZE, 3), (20 * n, 100, 7), np.uint8)
            png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
            rows.append({"image_id": f"i{n}", "identity": f"p{n // 2}", "split": "train", "image": png})
        schemas.write(folder / f"images-{shard:05d}.parquet", rows, schemas.IMAGES)
    rows = [{"source_id": f"i{k % 10}", "target_id": f"i{(k % 10 + 3 * (k % 5 != 0)) % 10}"} for k in range(20)]
    rows = [row | {"same": row["source_id"] == row["target_id"]} for row in rows]
    schemas.write(folder / "train.parquet", rows, schemas.PAIRS)
    return folder


def test_read_frames_is_exact_in_any_order_from_bytes_and_path(videos, tmp_path):
    wanted = [7, 0, 7, 11, 3]
    (tmp_path / "x.mp4").write_bytes(videos[5])
    for video in (videos[5], tmp_path / "x.mp4", str(tmp_path / "x.mp4")):
        frames = read_frames(video, wanted)
        assert frames.shape == (5, SIZE, SIZE, 3) and frames.dtype == np.uint8
        assert [decoded(frame) for frame in frames] == [(5, n) for n in wanted]


def test_pngs_can_be_read_after_videos(videos, tmp_path):
    """In a fresh process: whichever of decord and cv2 is loaded first brings its zlib for both."""
    (tmp_path / "x.mp4").write_bytes(videos[0])
    (tmp_path / "x.png").write_bytes(cv2.imencode(".png", np.full((8, 8, 3), 9, np.uint8))[1].tobytes())
    code = "import sys; from uniface import data; data.read_frames(sys.argv[1], [0]); "
    code += "print(data.read_image_bytes(open(sys.argv[2], 'rb').read()).sum())"
    files = [str(tmp_path / "x.mp4"), str(tmp_path / "x.png")]
    answer = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, timeout=120)
    assert answer.stdout == f"{9 * 8 * 8 * 3}\n", answer.stderr


def test_read_frames_errors(videos, tmp_path):
    with pytest.raises(FileNotFoundError, match="no video"):
        read_frames(tmp_path / "x.mp4", [0])
    for bad in (b"", b"junk" * 100, videos[0][: len(videos[0]) // 2]):
        with pytest.raises(CorruptMedia, match="cannot decode"):
            read_frames(bad, [0])
    with pytest.raises(CorruptMedia, match="12"):
        read_frames(videos[0], [12])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_clips_are_the_kept_ones_and_pairs_are_two_frames_of_one(clips, cache_bytes):
    dataset = ClipDataset(clips, "train", cache_bytes)
    assert len(dataset) == 7 and dataset.row(4)["person_id"] == "id00004" and dataset.row(4)["row"] == 1
    assert dataset.column("frames") == [FRAMES] * 7 == list(dataset.lengths)
    assert decoded(dataset.frame(4, 9)) == (4, 9)
    rng = np.random.default_rng(0)
    drawn = [[decoded(image) for image in dataset.pair(4, rng)] for _ in range(300)]
    assert all(source[0] == target[0] == 4 and source != target for source, target in drawn)
    assert {source[1] for source, _ in drawn} == {target[1] for _, target in drawn} == set(range(FRAMES))
    assert (len(dataset._cache) == 1) == (cache_bytes > 0)


def test_of_several_candidates_the_least_like_the_source_is_the_target(clips):
    """The clips' brightness grows with the number of the frame."""
    dataset = ClipDataset(clips, "train")

    def apart(candidates):
        rng = np.random.default_rng(0)
        drawn = [dataset.pair(4, rng, candidates) for _ in range(100)]
        return np.mean([np.square(np.subtract(*pair, dtype=np.float32)).mean() for pair in drawn])

    assert apart(4) > 1.2 * apart(1)
    source, target = dataset.pair(4, np.random.default_rng(1), 4)
    rng = np.random.default_rng(1)
    frame, shifts = int(rng.integers(FRAMES)), rng.integers(1, FRAMES, 4)
    errors = {i: np.square(dataset.frame(4, i) - source.astype(np.float32)).sum() for i in (frame + shifts) % FRAMES}
    assert np.array_equal(target, dataset.frame(4, max(errors, key=errors.get)))


def test_a_sample_says_whom_it_shows(clips):
    dataset = ClipDataset(clips, "train")
    assert dataset.persons == len(set(dataset.column("person_id")))
    numbers = {}
    for k in range(14):
        sample = dataset.sample(k, 0, ())[0]
        numbers.setdefault(decoded(sample["source"])[0], set()).add(int(sample["person"]))
    assert sorted(min(found) for found in numbers.values()) == list(range(dataset.persons))
    assert all(len(found) == 1 for found in numbers.values())


def test_cache_changes_nothing(clips):
    one, two = (ClipDataset(clips, "train", size) for size in (0, 1 << 30))
    for k in range(20):
        (a, _), (b, _) = one.sample(k, 5, ["colour"]), two.sample(k, 5, ["colour"])
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_an_epoch_takes_each_clip_once_and_the_next_in_another_order(clips):
    dataset = ClipDataset(clips, "train")
    order = [decoded(dataset.sample(k, 0, ())[0]["target"])[0] for k in range(21)]
    assert all(sorted(order[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert order[:7] != order[7:14]
    assert order != [decoded(dataset.sample(k, 1, ())[0]["target"])[0] for k in range(21)]


def test_the_driver_is_the_target_augmented_or_not(clips):
    dataset = ClipDataset(clips, "train")
    plain = dataset.sample(3, 0, ())[0]
    augmented = dataset.sample(3, 0, ["colour"])[0]
    assert np.array_equal(plain["driver"], plain["target"])
    assert np.array_equal(augmented["target"], plain["target"])
    assert any(
        not np.array_equal(s["driver"], s["target"]) for s, _ in (dataset.sample(k, 0, ["colour"]) for k in range(9))
    )


def test_mirror_turns_source_target_and_driver_together_every_second_time(clips, monkeypatch):
    dataset = ClipDataset(clips, "train")
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:, : SIZE // 2] = 200
    monkeypatch.setattr(dataset, "pair", lambda i, rng, candidates: (image, image))
    turned = 0
    for k in range(100):
        sample = dataset.sample(k, 0, ["mirror"])[0]
        first = sample["source"]
        assert all(np.array_equal(first, sample[name]) for name in ("target", "driver"))
        assert np.array_equal(first, image) or np.array_equal(first, image[:, ::-1])
        turned += not np.array_equal(first, image)
    assert 30 < turned < 70


def test_batches_are_tensors_in_the_range(clips, pairs):
    batch = next(sample_stream(ClipDataset(clips, "train"), 0, 3))
    assert batch.pop("person").dtype == torch.int64
    assert set(batch) == {"source", "target", "driver"}
    assert all(v.shape == (3, 3, SIZE, SIZE) and v.dtype == torch.float32 for v in batch.values())
    assert batch["target"].min() >= -1 and batch["target"].max() <= 1
    batch = next(sample_stream(PairDataset(pairs, "train"), 0, 5))
    assert set(batch) == {"source", "target", "partner", "same"} and batch["same"].tolist() == [True] + 4 * [False]
    assert torch.equal(batch["source"][0], batch["target"][0])


@pytest.mark.parametrize("kind", [ClipDataset, PairDataset])
def test_two_ranks_see_what_one_rank_sees_and_resume_is_an_offset(clips, pairs, kind):
    dataset = kind(clips if kind is ClipDataset else pairs, "train")
    one = sample_stream(dataset, 3, 4)
    ranks = [sample_stream(dataset, 3, 2, rank, 2) for rank in range(2)]
    late = sample_stream(dataset, 3, 4, start_step=5)
    for step in range(8):
        whole, parts = next(one), [next(rank) for rank in ranks]
        resumed = next(late) if step >= 5 else whole
        for key, value in whole.items():
            assert torch.equal(value, torch.cat([part[key] for part in parts])) and torch.equal(value, resumed[key])
    assert one.step == late.step == 8 and one.skipped == 0


def test_loader_workers_keep_the_order(clips):
    dataset = ClipDataset(clips, "train")
    next(sample_stream(dataset, 0, 2))  # files open before the fork
    here, there = (sample_stream(dataset, 0, 2, start_step=3, loader_workers=n) for n in (0, 2))
    for _ in range(6):
        a, b = next(here), next(there)
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_datasets_travel_to_other_processes_without_their_open_files(clips, pairs):
    for dataset in (ClipDataset(clips, "train"), PairDataset(pairs, "train")):
        expected = dataset.sample(1, 0, ["colour"])[0]
        copied = pickle.loads(pickle.dumps(dataset))
        assert copied._cache == {} and np.array_equal(copied.sample(1, 0, ["colour"])[0]["source"], expected["source"])


def test_a_corrupt_clip_gives_way_to_the_next_one_and_is_counted(videos, tmp_path, caplog):
    write_clips(tmp_path, [*videos[:2], b"not a video", *videos[3:5], videos[5][:700], videos[6]])
    dataset = ClipDataset(tmp_path, "train")
    stream = sample_stream(dataset, 0, 7, augment=())
    first, second = next(stream), next(stream)
    assert stream.skipped == len(caplog.records) >= 4 and sorted(dataset.corrupt) == [2, 5]
    assert "id00005" in dataset.corrupt[5] and "train-00001.parquet" in dataset.corrupt[5] and "skipped" in caplog.text
    again = sample_stream(ClipDataset(tmp_path, "train", cache_bytes=0), 0, 7, augment=(), start_step=1)
    assert torch.equal(next(again)["source"], second["source"]) and not torch.equal(first["source"], second["source"])
    with pytest.raises(CorruptMedia):
        dataset.frame(2, 0)


def test_skips_in_workers_are_counted_here(videos, tmp_path):
    write_clips(tmp_path, [*videos[:2], b"not a video"])
    stream = sample_stream(ClipDataset(tmp_path, "train"), 0, 3, loader_workers=1)
    next(stream), next(stream)
    assert stream.skipped == 2


def test_a_flipped_byte_is_noticed_not_decoded(videos, tmp_path):
    """FFmpeg would conceal it; the checksum of the parquet page does not."""
    write_clips(tmp_path, videos)
    shard = tmp_path / "train-00001.parquet"
    content = bytearray(shard.read_bytes())
    middle = content.find(videos[4]) + len(videos[4]) // 2
    content[middle] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptMedia, match=r"(?i)crc|checksum"):
        ClipDataset(tmp_path, "train").frame(4, 0)


def test_only_corrupt_clips_is_an_error(tmp_path):
    write_clips(tmp_path, [b"x", b"y"])
    with pytest.raises(ValueError, match="2 clips in a row"):
        next(sample_stream(ClipDataset(tmp_path, "train"), 0, 1))


def test_clip_folder_errors(clips, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"index.parquet not found"):
        ClipDataset(tmp_path, "train")
    with pytest.raises(ValueError, match="no test clips"):
        ClipDataset(clips, "test")
    (tmp_path / "index.parquet").write_bytes((clips / "index.parquet").read_bytes())
    with pytest.raises(FileNotFoundError, match="lacks 3 shards"):
        ClipDataset(tmp_path, "train")
    (tmp_path / "index.parquet").write_bytes(b"PAR1 junk")
    with pytest.raises(ValueError, match="damaged"):
        ClipDataset(tmp_path, "train")
    schemas.write(tmp_path / "index.parquet", [], schemas.PAIRS)
    with pytest.raises(ValueError, match="holds schema 'pairs'"):
        ClipDataset(tmp_path, "train")


def test_a_million_clips_open_within_seconds(tmp_path):
    """The index alone is read: the shards here are empty files."""
    import pyarrow as pa

    n, per_shard = 1_000_000, 1000
    number = np.arange(n)

    def names(pattern: str, every: int) -> pa.Array:
        values = [pattern.format(i) for i in range(number[-1] // every + 1)]
        return pa.DictionaryArray.from_arrays(number // every, values).cast(pa.string())

    columns = {
        "person_id": names("id{:05d}", 200),
        "video_id": names("video{:06d}", 8),
        "utterance": names("{:05d}", 100),
        "box": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4 * n, np.float32)), 4),
        "fps": pa.array(np.full(n, 25, np.float32)),
        "split": names("train", n),
        "status": names("kept", n),
        "reason": pa.nulls(n, pa.string()),
        "fit": pa.nulls(n, pa.string()),
        "bad_lines": pa.array(np.zeros(n, np.int32)),
        "shard": names("train-{:05d}.parquet", per_shard),
        "row": pa.array((number % per_shard).astype(np.int32)),
    }
    for name in ("chunk", "start", "end", "width", "height", "frames"):
        columns[name] = pa.array(np.full(n, 100, np.int32))
    table = pa.table([columns[name] for name in schemas.CLIP_INDEX.names], schema=schemas.CLIP_INDEX)
    schemas.write(tmp_path / "index.parquet", table, schemas.CLIP_INDEX)
    for i in range(n // per_shard):
        (tmp_path / f"train-{i:05d}.parquet").touch()
    del columns, table
    before, start = pa.total_allocated_bytes(), time.process_time()
    dataset = ClipDataset(tmp_path, "train")
    assert time.process_time() - start < 5  # benchmarks/loader.py measures the peak in a process of its own
    assert len(dataset) == n and pa.total_allocated_bytes() - before < 200e6
    assert dataset.row(n - 1)["shard"] == "train-00999.parquet"


def test_pairs_give_what_their_rows_say(pairs):
    dataset = PairDataset(pairs, "train")
    assert len(dataset) == 20
    source, target, same, ids = dataset.pair(6)
    assert (source[0, 0, 0], target[0, 0, 0], same, ids) == (120, 180, False, ("i6", "i9"))
    source, target, same, ids = dataset.pair(5)
    assert same and ids == ("i5", "i5") and np.array_equal(source, target)
    assert dataset.identity("i7") == "p3" and dataset.image("i7")[0, 0, 0] == 140
    batches = sample_stream(dataset, 0, 10)
    assert [int((v + 1) * 127.5 / 20 + 0.5) for v in next(batches)["source"][:, 0, 0, 0]] == list(range(10))


def test_the_partner_is_another_picture_of_the_targets_person_if_there_is_one(pairs):
    dataset = PairDataset(pairs, "train")
    ids = {dataset.image(one).tobytes(): one for one in dataset._number}
    several = 0
    for k in range(len(dataset)):
        target, partner = dataset.ids(k)[1], ids[dataset.sample(k, 0, ())[0]["partner"].tobytes()]
        assert dataset.identity(partner) == dataset.identity(target)
        pictures = [one for one in dataset._number if dataset.identity(one) == dataset.identity(target)]
        assert (partner != target) == (len(pictures) > 1)
        several += len(pictures) > 1
    assert several > 0


def test_pairs_without_cache_are_the_same(pairs):
    one, two = PairDataset(pairs, "train"), PairDataset(pairs, "train", cache_bytes=0)
    assert all(np.array_equal(one.pair(k)[1], two.pair(k)[1]) for k in range(20))
    assert len(one._cache) == 10 and two._cache == {}


def test_a_corrupt_image_gives_way_and_the_ratio_stays(pairs, tmp_path):
    for path in pairs.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = read_table(pairs / "images-00000.parquet", "images").to_pylist()
    rows[0]["image"] = b"not an image"
    schemas.write(tmp_path / "images-00000.parquet", rows, schemas.IMAGES)
    dataset = PairDataset(tmp_path, "train")
    stream = sample_stream(dataset, 0, 20)
    batch = next(stream)
    assert batch["same"].tolist() == ([True] + 4 * [False]) * 4
    assert stream.skipped == 4 and "i0" in dataset.corrupt[0]  # rows 0, 7, 10 and 17
    assert torch.equal(batch["source"][0], batch["source"][5])


def test_pair_folder_errors(pairs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train.parquet not found"):
        PairDataset(tmp_path, "train")
    (tmp_path / "train.parquet").write_bytes((pairs / "train.parquet").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"no images-"):
        PairDataset(tmp_path, "train")
    (tmp_path / "images-00000.parquet").write_bytes((pairs / "images-00000.parquet").read_bytes())
    with pytest.raises(ValueError, match="row 2 names an image"):
        PairDataset(tmp_path, "train")
    schemas.write(tmp_path / "train.parquet", [], schemas.PAIRS)
    with pytest.raises(ValueError, match="empty"):
        PairDataset(tmp_path, "train")


def test_stream_refuses_wrong_ranks(clips):
    with pytest.raises(ValueError, match="rank 2 of 2"):
        sample_stream(ClipDataset(clips, "train"), 0, 1, rank=2, world=2)
