"""Reading the data sets: frames of mp4 bytes, clips and pairs in parquet shards, and the streams training eats.

Everything opens by footers and indices alone and reads one clip or image at a time, so memory does not grow with the
data. Bytes go through the operating system's page cache, which all workers of a machine share.
"""

import io
import logging
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np

from uniface.augment import AUGMENTATIONS, augment_driver
from uniface.store import Disk
from uniface.tables import CorruptMedia, Shards, read_table, string_codes

MAX_SKIPS = 100
"""Unreadable samples in a row after which a stream gives up: the data set is broken, not a clip of it."""

log = logging.getLogger(__name__)


# --- files ---------------------------------------------------------------------------------------------------------


@cache
def _decord():
    import cv2  # noqa: F401  before decord, whose own zlib would break cv2's PNG decoder
    import decord

    decord.logging.set_level(decord.logging.FATAL)  # errors come as exceptions; FFmpeg's remarks are noise
    return decord


def read_frames(video: bytes | str | Path, indices: Sequence[int]) -> np.ndarray:
    """The frames of these numbers of a video (its bytes or its path): uint8 (n, H, W, 3) RGB, in the order asked for.

    Raises FileNotFoundError for a missing file, and CorruptMedia (a ValueError) if the bytes are no video or the
    video has no such frame.
    """
    decord = _decord()
    if isinstance(video, bytes) and video[4:8] != b"ftyp":  # decord would print the bytes
        raise CorruptMedia(f"cannot decode frames of {len(video)} bytes: not an mp4")
    if not isinstance(video, bytes) and not Path(video).is_file():
        raise FileNotFoundError(f"no video at {video}")
    try:
        # one thread: the callers are many processes already
        reader = decord.VideoReader(
            io.BytesIO(video) if isinstance(video, bytes) else str(video), ctx=decord.cpu(0), num_threads=1
        )
        return reader.get_batch(list(indices)).asnumpy()
    except (RuntimeError, IndexError, decord.DECORDError) as error:
        where = f"{len(video)} bytes" if isinstance(video, bytes) else video
        raise CorruptMedia(f"cannot decode frames of {where}: {str(error).splitlines()[0]}") from error


def read_image_bytes(data: bytes | np.ndarray) -> np.ndarray:
    """The bytes of a picture file (BMP in our shards) to uint8 (H, W, 3) RGB. Raises CorruptMedia if they are none."""
    import cv2

    buffer = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    image = cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB) if buffer.size else None
    if image is None:
        raise CorruptMedia(f"{buffer.size} bytes are no picture file")
    return image


# --- data sets -----------------------------------------------------------------------------------------------------


class ClipDataset:
    """The kept clips of one split of `data/clips`. Opening reads the index alone.

    If all decoded frames fit in `cache_bytes`, clips are decoded whole, once, and kept (per process); of a larger set
    only the frames asked for are decoded and nothing is kept. `disk` keeps what comes from a store.
    """

    def __init__(self, folder: str | Path, split: str, cache_bytes: int = 512 << 20, disk: Disk | None = None) -> None:
        self.folder, self.split, self.cache_bytes = Path(folder), split, cache_bytes
        index = read_table(self.folder / "index.parquet", "clip_index", ["split", "status", "shard", "row", "frames"])
        codes, self._names = string_codes(index["shard"])
        wanted = np.ones(len(index), bool)
        for name, value in (("split", split), ("status", "kept")):
            numbers, values = string_codes(index[name])
            wanted &= numbers == (values.index(value) if value in values else -2)
        row = index["row"].fill_null(-1).to_numpy()
        order = np.lexsort((row, codes))
        self._where = order[wanted[order]]  # rows of the index, by shard and row
        if not len(self._where):
            raise ValueError(f"{self.folder} has no {split} clips: reports/clips.json says what became of the videos")
        self._shard, self._row = codes[self._where], row[self._where]
        self.lengths = index["frames"].fill_null(0).to_numpy()[self._where]
        """Frames of each clip, (len(self),)."""
        names = [self._names[n] for n in np.unique(self._shard)]
        self._shards = Shards(self.folder, "clips", names, disk)
        self.corrupt: dict[int, str] = {}
        """Clips that this process could not read, and why."""
        self._cache: dict[int, np.ndarray] = {}
        self._cached: bool | None = None  # whether everything fits; known after the first decoding

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_index"} | {"_cache": {}}

    def __len__(self) -> int:
        return len(self._row)

    @cached_property
    def _index(self):
        """Every column of the index for the clips of this split; read when first asked for."""
        return read_table(self.folder / "index.parquet", "clip_index").take(self._where)

    def row(self, i: int) -> dict:
        """What the index knows of clip `i`: person_id, video_id, utterance, chunk, start, end, box, frames, ..."""
        return self._index.slice(i, 1).to_pylist()[0]

    def column(self, name: str) -> list:
        """One column of the index for all clips, in their order."""
        return self._index[name].to_pylist()

    def video(self, i: int) -> bytes:
        """The mp4 bytes of clip `i`."""
        return self._shards.read(self._names[self._shard[i]], int(self._row[i]), "video").tobytes()

    def frames(self, i: int, indices: Sequence[int]) -> np.ndarray:
        """Frames of clip `i`: uint8 (n, H, W, 3). Raises CorruptMedia if the clip cannot be decoded."""
        if i in self.corrupt:
            raise CorruptMedia(self.corrupt[i])
        if i in self._cache:
            return self._cache[i][list(indices)]
        try:
            if not self._cached:
                frames = read_frames(self.video(i), indices)
                if self._cached is None:
                    self._cached = int(self.lengths.sum(dtype=np.int64)) * frames[0].nbytes <= self.cache_bytes
                return frames
            whole = read_frames(self.video(i), range(self.lengths[i]))
        except CorruptMedia as error:
            clip = self.row(i)
            name = "#".join(str(clip[key]) for key in ("person_id", "video_id", "utterance", "chunk"))
            self.corrupt[i] = f"clip {name} ({clip['shard']}, row {clip['row']}): {error}"
            raise CorruptMedia(self.corrupt[i]) from error
        self._cache[i] = whole
        return whole[list(indices)]

    def frame(self, i: int, frame: int) -> np.ndarray:
        """One frame of clip `i`: uint8 (H, W, 3)."""
        return self.frames(i, [frame])[0]

    def pair(self, i: int, rng: np.random.Generator, candidates: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Source and target: two random frames of clip `i`, different ones if it has two. uint8 (H, W, 3) each.

        Of several `candidates` for the target that one which is least like the source, by squared error, is taken:
        pairs of a clip are nearer to each other in pose than those of two persons (not in the paper).
        """
        length = int(self.lengths[i])
        source = int(rng.integers(length))
        shifts = rng.integers(1, length, candidates) if length > 1 else [0]
        source, *targets = self.frames(i, [source, *((source + int(shift)) % length for shift in shifts)])
        if len(targets) == 1:
            return source, targets[0]
        wanted = source.astype(np.float32)
        return source, max(targets, key=lambda target: float(np.square(target - wanted).sum()))

    @cached_property
    def _persons(self) -> np.ndarray:
        index = read_table(self.folder / "index.parquet", "clip_index", ["person_id"])
        return np.unique(string_codes(index["person_id"])[0][self._where], return_inverse=True)[1]

    @property
    def persons(self) -> int:
        """How many persons the clips show."""
        return int(self._persons.max()) + 1

    def sample(
        self, k: int, seed: int, augment: Sequence[str], candidates: int = 1
    ) -> tuple[dict[str, np.ndarray], int]:
        """Sample `k` of the endless training stream, and how many unreadable clips were passed over for it.

        source, target and driver, uint8 (H, W, 3): the driver is the target, augmented in these ways; it stands in
        for the target at the attribute embedder. "mirror" turns all three over, every second time. `candidates`: as in
        `pair`. person, int64: whom they show, from 0 to below `persons`. Each epoch takes the clips in another order.
        """
        epoch, position = divmod(k, len(self))
        for skipped in range(min(len(self), MAX_SKIPS)):
            i = int(_order(seed, epoch, len(self))[(position + skipped) % len(self)])
            rng = np.random.default_rng((seed, k))
            try:
                source, target = self.pair(i, rng, candidates)
            except CorruptMedia as error:
                log.warning("skipped: %s", error)
                continue
            if "mirror" in augment and rng.random() < 0.5:
                source, target = (np.ascontiguousarray(image[:, ::-1]) for image in (source, target))
            driver = augment_driver(target, rng, [kind for kind in augment if kind in AUGMENTATIONS])
            person = np.int64(self._persons[i])
            return {"source": source, "target": target, "driver": driver, "person": person}, skipped
        raise ValueError(
            f"{min(len(self), MAX_SKIPS)} clips in a row of {self.folder} are unreadable: restore the data"
        )


class PairDataset:
    """The rows of `data/pairs/<split>.parquet` with their images. Row k is sample k.

    Decoded images are kept if all of them fit in `cache_bytes`, as in `ClipDataset`.
    """

    def __init__(self, folder: str | Path, split: str, cache_bytes: int = 512 << 20, disk: Disk | None = None) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self.folder, self.split, self.cache_bytes = Path(folder), split, cache_bytes
        pairs = read_table(self.folder / f"{split}.parquet", "pairs")
        if not len(pairs):
            raise ValueError(
                f"{self.folder / split}.parquet is empty: reports/pairs.json says what became of the images"
            )
        self._shards = Shards(self.folder, "images", disk=disk)
        if self._shards.elsewhere:  # the index knows what opening each of them would say
            index = read_table(self.folder / "index.parquet", "image_index", ["image_id", "identity", "shard", "row"])
            images = index.filter(pc.is_valid(index["shard"])).sort_by([("shard", "ascending"), ("row", "ascending")])
            self._file, self._files = string_codes(images["shard"])
            self._row = images["row"].to_numpy()
            images = images.combine_chunks()
        else:
            self._files = [path.name for path in sorted(self.folder.glob("images-*.parquet"))]
            if not self._files:
                raise FileNotFoundError(f"{self.folder} has no images-*.parquet: run the stage pairs")
            tables = [read_table(self.folder / name, "images", ["image_id", "identity"]) for name in self._files]
            images = pa.concat_tables(tables).combine_chunks()
            self._file = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
            self._row = np.concatenate([np.arange(len(table)) for table in tables])
        self._ids, self._identities = images["image_id"].combine_chunks(), images["identity"]
        self._source, self._target = (
            pc.index_in(pairs[name], value_set=self._ids).fill_null(-1).to_numpy()
            for name in ("source_id", "target_id")
        )
        if self._source.min() < 0 or self._target.min() < 0:
            row = int(np.flatnonzero((self._source < 0) | (self._target < 0))[0])
            raise ValueError(
                f"{self.folder / split}.parquet, row {row} names an image that no shard holds: run pairs again"
            )
        self._same = pairs["same"].to_numpy()
        self._number = {name: i for i, name in enumerate(self._ids.to_pylist())}
        self.corrupt: dict[int, str] = {}
        """Images that this process could not read, and why."""
        self._cache: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_cache": {}}

    def __len__(self) -> int:
        return len(self._same)

    def image(self, image_id: str) -> np.ndarray:
        """The image of this id: uint8 (H, W, 3). Raises KeyError, and CorruptMedia if it cannot be decoded."""
        return self._image(self._number[image_id])

    def identity(self, image_id: str) -> str:
        """Whom the image shows."""
        return self._identities[self._number[image_id]].as_py()

    def ids(self, k: int) -> tuple[str, str]:
        """Source and target ids of row `k`."""
        return self._ids[int(self._source[k])].as_py(), self._ids[int(self._target[k])].as_py()

    def same(self, k: int) -> bool:
        """Whether row `k` pairs an image with itself."""
        return bool(self._same[k])

    def pair(self, k: int) -> tuple[np.ndarray, np.ndarray, bool, tuple[str, str]]:
        """Row `k`: source, target (uint8 (H, W, 3)), whether they are one image, and their ids."""
        source = self._image(int(self._source[k]))
        target = source if self._same[k] else self._image(int(self._target[k]))
        return source, target, self.same(k), self.ids(k)

    def _partner(self, i: int, rng: np.random.Generator) -> int:
        """Another picture of the person in picture `i`, or `i` itself if there is none."""
        order, first, counts, codes = self._persons
        start, count = first[codes[i]], counts[codes[i]]
        others = order[start : start + count]
        others = others[others != i]
        return int(rng.choice(others)) if len(others) else i

    @cached_property
    def _persons(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pictures in the order of their persons; of each person the first place there and how many; each's person."""
        codes = string_codes(self._identities)[0]
        counts = np.bincount(codes)
        return np.argsort(codes, kind="stable"), np.cumsum(counts) - counts, counts, codes

    def _image(self, i: int) -> np.ndarray:
        if i in self._cache:
            return self._cache[i]
        if i in self.corrupt:
            raise CorruptMedia(self.corrupt[i])
        name, row = self._files[self._file[i]], int(self._row[i])
        try:
            image = read_image_bytes(self._shards.read(name, row, "image"))
        except CorruptMedia as error:
            self.corrupt[i] = f"image {self._ids[i].as_py()} ({name}, row {row}): {error}"
            raise CorruptMedia(self.corrupt[i]) from error
        if image.nbytes * len(self._row) <= self.cache_bytes:
            self._cache[i] = image
        return image

    def sample(
        self, k: int, seed: int, augment: Sequence[str], candidates: int = 1
    ) -> tuple[dict[str, np.ndarray], int]:
        """Sample `k` of the endless stream: row k modulo the length, and how many unreadable rows were passed over.

        source, target and partner uint8 (H, W, 3), and same (bool); the partner is another picture of the target's
        person, or the target if there is none to read. An unreadable row gives way to the next one with the same
        `same`, so that the ratio stays. `seed` draws partners; `augment` and `candidates` change nothing: the table is
        the draw.
        """
        first = k % len(self)
        skipped = 0
        for j in range(len(self)):
            row = (first + j) % len(self)
            if self._same[row] != self._same[first]:
                continue
            if skipped == MAX_SKIPS:
                break
            try:
                source, target, same, _ = self.pair(row)
            except CorruptMedia as error:
                log.warning("skipped: %s", error)
                skipped += 1
                continue
            try:
                partner = self._image(self._partner(int(self._target[row]), np.random.default_rng((seed, k))))
            except CorruptMedia:
                partner = target
            return {"source": source, "target": target, "partner": partner, "same": np.bool_(same)}, skipped
        raise ValueError(f"{skipped} pairs in a row of {self.folder} are unreadable: restore the data")


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of `n` clips in one epoch."""
    return np.random.default_rng((seed, epoch, n)).permutation(n)
