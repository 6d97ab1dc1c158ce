"""The sample world as data: who is where, exact truth, the raw layouts."""

import hashlib
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.sample import truth
from pipeline.sample.drawing.render import Renderer
from pipeline.sample.raw import annotation, write_celebahq, write_voxceleb2
from pipeline.sample.world import EVENTS, World
from pipeline.sections import SampleParams
from pipeline.videos.annotations import Annotations, parse_utterance
from uniface.data import read_frames
from uniface.images import read_image, resize

PARAMS = SampleParams(
    scale=1,
    persons=20,
    test_persons=4,
    seconds=3.3,
    video_height=96,
    portraits=12,
    portrait_identities=6,
    test_identities=2,
    portrait_size=64,
)
FEW = SampleParams(**{**PARAMS.__dict__, "persons": 2, "test_persons": 1, "seconds": 0.6, "portraits": 4,
                      "portrait_identities": 2, "test_identities": 1})  # fmt: skip


@pytest.fixture(scope="module")
def world() -> World:
    return World(PARAMS, seed=5)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[World, Path]:
    few = World(FEW, seed=5)
    folder = tmp_path_factory.mktemp("raw")
    write_voxceleb2(few, folder / "vox", workers=2)
    write_celebahq(few, folder / "celeb", workers=1)
    return few, folder


def hashes(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean(np.square(a.astype(float) - b.astype(float)))
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def test_same_seed_same_world_other_seed_another(world):
    again, other = World(PARAMS, seed=5), World(PARAMS, seed=6)
    assert again.videos == world.videos and again.portraits == world.portraits
    assert not {v.video_id for v in other.videos} & {v.video_id for v in world.videos}
    assert other.portraits[0].face != world.portraits[0].face


def test_split_is_by_person_and_sizes_are_as_asked(world):
    train, test = ({v.person_id for v in world.videos if v.split == s} for s in ("train", "test"))
    assert len(train) == 16 and len(test) == 4 and not train & test
    assert test == {f"id{10270 + i}" for i in range(4)}
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{11}", v.video_id) for v in world.videos)
    train, test = ({p.identity for p in world.portraits if p.split == s} for s in ("train", "test"))
    assert len(train) == 4 and len(test) == 2 and not train & test
    by_identity = {i: [p for p in world.portraits if p.identity == i] for i in train | test}
    assert all(len(ps) == 2 and ps[0].face == ps[1].face and ps[0].look != ps[1].look for ps in by_identity.values())


def test_scale_multiplies_and_leaves_objects_as_they_were(world):
    large = World(SampleParams(**{**PARAMS.__dict__, "scale": 3}), seed=5)
    assert (len(large.videos), len(large.portraits)) == (60, 36)
    assert len({v.person_id for v in large.videos}) == 60
    assert large.videos[3].face == world.videos[3].face


def test_every_trouble_happens(world):
    assert {v.event for v in world.videos} == set(EVENTS)
    video = {v.event: v for v in world.videos}
    assert len(video["cut"].shots) == 2 and len(video["two"].utterances) == 2
    spans = [[u.end - u.start for u in v.utterances] for v in world.videos]
    assert any(min(s) < 64 for s in spans) and sum(max(s) >= 64 for s in spans) >= 0.9 * len(spans)
    w = video["leaves"].size[1]
    first, last = video["leaves"].box(0), video["leaves"].box(video["leaves"].frames - 1)
    assert first[0] >= 0 and first[2] <= w and (last[0] >= w or last[2] <= 0)
    boxes = np.array([video["border"].box(k) for k in range(video["border"].frames)])
    left, right = boxes[:, 0].min(), boxes[:, 2].max()
    assert min(left, w - right) < 0.1 * (right - left), "its enlarged box crosses the border"
    plain = [v.box(0) for v in world.videos if v.event == "plain"]
    small = video["small"].box(0)
    assert small[3] - small[1] < 0.75 * min(b[3] - b[1] for b in plain)


def test_box_holds_the_landmarks_and_the_face(world):
    for video in world.videos[:4]:
        landmarks, box = video.measure(7)
        assert (landmarks >= box[:2]).all() and (landmarks <= box[2:]).all()
        assert 0.8 < (box[3] - box[1]) / (box[2] - box[0]) < 1.5
        eyes = np.linalg.norm(landmarks[1] - landmarks[0])
        assert 1.8 < (box[2] - box[0]) / eyes < 3.5


def test_frames_outside_are_refused(world):
    video = world.videos[0]
    with pytest.raises(ValueError, match="frames 0 to"):
        video.at(video.frames)
    with pytest.raises(KeyError):
        world.video("nobody")


def test_annotations_are_voxceleb2s_and_exact(world):
    video = world.videos[0]
    utterance = video.utterances[0]
    text = annotation(video, utterance)
    lines = text.splitlines()
    assert lines[0] == f"Identity  : \t{video.person_id}" and lines[1] == f"Reference : \t{video.video_id}"
    assert lines[5] == "" and lines[6] == "FRAME \tX \tY \tW \tH "
    assert re.fullmatch(r"\d{6} \t0\.\d{3} \t0\.\d{3} \t0\.\d{3} \t0\.\d{3} ", lines[7])
    track = parse_utterance(text, utterance.name)
    assert (track.first, len(track.boxes)) == (utterance.start, utterance.end - utterance.start)
    h, w = video.size
    assert np.abs(track.boxes[5] * (w, h, w, h) - video.box(utterance.start + 5)).max() < 0.3


def test_raw_voxceleb2_reads_back(written):
    few, folder = written
    listed = Annotations(folder / "vox" / "txt").videos()
    assert {(v.person_id, v.video_id, v.split) for v in listed} == {
        (v.person_id, v.video_id, v.split) for v in few.videos
    }
    video = few.videos[0]
    frame = read_frames(folder / "vox" / "videos" / f"{video.video_id}.mp4", [3])[0]
    assert frame.shape == (*video.size, 3)
    assert psnr(frame, video.render(3)) > 30


def test_raw_celebahq_reads_back(written):
    few, folder = written
    mapping = (folder / "celeb" / "CelebA-HQ-to-CelebA-mapping.txt").read_text().splitlines()
    identities = dict(line.split() for line in (folder / "celeb" / "identity_CelebA.txt").read_text().splitlines())
    assert mapping[0].split() == ["idx", "orig_idx", "orig_file"] and len(mapping) == 5
    for line in mapping[1:]:
        index, original, file = line.split()
        assert file == f"{int(original) + 1:06d}.jpg"
        portrait = few.portrait(index)
        assert identities[file] == str(portrait.identity)
        assert psnr(read_image(folder / "celeb" / "CelebA-HQ-img" / f"{index}.jpg"), portrait.render()) > 30


def test_other_processes_write_the_same_bytes_and_only_what_is_missing(written, tmp_path):
    few, folder = written
    write_voxceleb2(World(FEW, seed=5), tmp_path / "vox", workers=1)
    write_celebahq(World(FEW, seed=5), tmp_path / "celeb", workers=2)
    assert hashes(tmp_path) == hashes(folder)
    kept, gone = sorted((tmp_path / "vox" / "videos").iterdir())
    gone.unlink()
    before = kept.stat().st_mtime_ns
    write_voxceleb2(few, tmp_path / "vox", workers=1)
    assert kept.stat().st_mtime_ns == before and hashes(tmp_path) == hashes(folder)


def test_another_world_replaces_and_foreign_files_are_safe(written, tmp_path):
    few, _ = written
    write_celebahq(few, tmp_path / "celeb", workers=1)
    before = (tmp_path / "celeb" / "CelebA-HQ-img" / "0.jpg").read_bytes()
    write_celebahq(World(FEW, seed=6), tmp_path / "celeb", workers=1)
    assert (tmp_path / "celeb" / "CelebA-HQ-img" / "0.jpg").read_bytes() != before
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="not the sample's"):
        write_celebahq(few, foreign, workers=1)
    assert (foreign / "holiday.jpg").exists()


def test_reenacting_oneself_is_the_crop(world):
    video = next(v for v in world.videos if v.bystander)
    left, top, right, bottom = (int(x) for x in video.box(20) + np.array([-9, -9, 9, 9]))
    crop = video.render(20)[max(top, 0) : bottom, max(left, 0) : right]
    ref = (video.video_id, 20, (max(left, 0), max(top, 0), right, bottom))
    assert psnr(truth.reenacted(world, ref, ref, 48), resize(crop, (48, 48))) > 50


def test_reenactment_moves_the_source_as_the_target(world):
    plain = [v for v in world.videos if v.event == "plain"]
    a, b = plain[0], plain[1]
    ref_a, ref_b = ((v.video_id, 30, tuple(v.box(30))) for v in (a, b))
    answer = truth.reenacted(world, ref_a, ref_b, 48)
    assert answer.shape == (48, 48, 3) and answer.dtype == np.uint8
    assert psnr(answer, truth.reenacted(world, ref_a, ref_a, 48)) < 25, "the pose must be the target's"
    assert psnr(answer, truth.reenacted(world, ref_b, ref_b, 48)) < 25, "the person must be the source's"
    # the head has the target's place: the source's face at the target's attributes, unit and centre
    *_, attributes, unit, centre = b.at(30)
    box = Renderer(a.face, a.look, a.scene, b.size, unit, centre).measure(attributes, centre)[1]
    assert np.abs(box - b.box(30)).max() < 0.3 * unit
    with pytest.raises(ValueError, match="empty"):
        truth.reenacted(world, ref_a, (b.video_id, 30, (5, 5, 5, 9)), 48)


def test_swapping_onto_oneself_is_the_portrait_and_hair_stays(world):
    first, second = world.portraits[0], next(p for p in world.portraits if p.identity != world.portraits[0].identity)
    assert np.array_equal(truth.swapped(world, first.image_id, first.image_id, 64), first.render())
    answer = truth.swapped(world, first.image_id, second.image_id, 64).astype(int)
    target = second.render().astype(int)
    changed = np.abs(answer - target).mean(2)
    assert changed[24:56, 20:44].mean() > 5, "the face is another"
    assert changed[:6].mean() < 0.3 * changed[24:56, 20:44].mean(), "the hair stays"
    twin = next(p for p in world.portraits if p.identity == first.identity and p.image_id != first.image_id)
    assert np.array_equal(truth.swapped(world, twin.image_id, second.image_id, 64), answer), "only the face counts"


def test_decoys_are_the_answer_with_one_thing_wrong(world):
    a, b = [v for v in world.videos if v.split == "test"][:2]
    ref_a, ref_b = ((v.video_id, 30, tuple(v.box(30) + np.array([-10, -16, 10, 4]))) for v in (a, b))
    answer = truth.reenacted(world, ref_a, ref_b, 48).astype(int)
    decoys = truth.reenacted_decoys(world, ref_a, ref_b, 48, 7)
    assert decoys.shape == (3, 1 + truth.DECOYS, 48, 48, 3) and decoys.dtype == np.uint8
    assert (decoys[:, 0] == answer).all(), "the first is the right answer, though drawn with what the others share"
    assert np.array_equal(decoys, truth.reenacted_decoys(world, ref_a, ref_b, 48, 7))
    assert not np.array_equal(decoys, truth.reenacted_decoys(world, ref_a, ref_b, 48, 8))
    changed = np.abs(decoys[:, 1:] - answer).mean((1, 4))  # (kinds, rows, columns), mean over the decoys
    face, expression, pose = changed
    assert (changed.max((1, 2)) > 5).all(), "every kind is wrong somewhere"
    assert expression[:12].max() < 1 and expression[20:].max() > 5, "the forehead knows no expression"
    assert 2 * face[:8].mean() < face[20:].mean() and 2 * face[:8].mean() < pose[:8].mean(), "the hair stays"
    ids = [p.image_id for p in world.portraits if p.split == "test"]
    target = next(i for i in ids if world.portrait(i).identity != world.portrait(ids[0]).identity)
    answer = truth.swapped(world, ids[0], target, 64)
    wrong = truth.swapped_decoys(world, ids[0], target, 64, 7)
    assert wrong.shape == (1, 1 + truth.DECOYS, 64, 64, 3)
    assert np.array_equal(wrong[0, 0], answer) and (wrong[0, 1:] != answer).any((1, 2, 3)).all()


def test_motion_is_smooth_and_speaks(world):
    video = next(v for v in world.videos if v.event == "plain")
    tracks = np.array([video.at(i)[3].vector() for i in range(video.frames)])
    assert np.abs(np.diff(tracks[:, :3], axis=0)).max() < 8, "degrees from frame to frame"
    mouth = tracks[:, 6]
    assert mouth.max() > 0.4 and (np.diff(np.sign(np.diff(mouth))) != 0).sum() >= 4, "syllables"
    assert cv2.PSNR(video.render(10), video.render(11)) > cv2.PSNR(video.render(10), video.render(40))
