"""Videos: times, rotation and audio kept, kill and resume, lost faces, cuts, steadied and spared detections."""

import os
import signal
import subprocess
import sys
import time

import av
import drawn_faces
import numpy as np
import pytest

import uniface
from uniface.faces import Detection, Faces
from uniface.use import find, track, video
from uniface.use.mp4 import set_rotation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_faces.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def moving():
    """40 frames in which the head moves."""
    return [drawn_faces.frame("plain", number) for number in range(40)]


@pytest.fixture(scope="module")
def turned(tmp_path_factory, moving):
    """A phone's video: 8 s, variable rate around 30 fps, sound, rotated in the header."""
    path = tmp_path_factory.mktemp("video") / "phone.mp4"
    steps = np.random.default_rng(0).integers(300, 724, 240)
    frames = [np.ascontiguousarray(np.rot90(moving[k % 40])) for k in range(240)]
    drawn_faces.write_video(path, frames, times=np.cumsum(steps).tolist(), sound=True)
    set_rotation(path, 270)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation == -90
    return path


def test_times_rotation_and_sound_are_kept(folder, turned, tmp_path):
    session = uniface.load(folder).session("swapping", drawn_faces.portrait(), fps=30)
    done = video.edit(session, turned, tmp_path / "out.mp4")
    assert (done.frames, done.lost) == (240, 0)
    before, after = drawn_faces.described(turned), drawn_faces.described(tmp_path / "out.mp4")
    assert after["frames"] == before["frames"]  # time, rotation, width and height of each
    assert after["audio"] == before["audio"] and len(before["audio"]) > 300
    assert after["rate"] == pytest.approx(before["rate"], rel=0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4"]


@pytest.mark.parametrize("space", [1, 6])  # BT.709, BT.601
def test_untouched_pixels_stay_close_and_colours_too(folder, moving, tmp_path, space):
    drawn_faces.write_video(tmp_path / "in.mp4", moving[:8], space=space)
    session = uniface.load(folder).session("swapping", drawn_faces.portrait())
    video.edit(session, tmp_path / "in.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "in.mp4")) as one, av.open(str(tmp_path / "out.mp4")) as two:
        for a, b in zip(one.decode(video=0), two.decode(video=0), strict=True):
            assert b.colorspace == a.colorspace == space
            a, b = (video._upright(f).astype(int) for f in (a, b))
            assert np.abs(a - b)[:, :120].mean() < 1.5 and abs((a - b)[:, :120].mean()) < 0.2
            assert np.abs(a - b)[40:200, 200:360].max() > 20  # and the face is another


def test_a_portrait_driven_by_a_video(folder, turned, tmp_path):
    session = uniface.load(folder).session("reenactment", drawn_faces.portrait(), fps=30)
    video.edit(session, turned, tmp_path / "out.mov")
    before, after = drawn_faces.described(turned), drawn_faces.described(tmp_path / "out.mov")
    assert [f[0] for f in after["frames"]] == [f[0] for f in before["frames"]]
    assert {f[1:] for f in after["frames"]} == {(0, 32, 32)}
    assert [packet[3] for packet in after["audio"]] == [packet[3] for packet in before["audio"]]


def test_a_broken_run_goes_on_to_the_same_pictures(folder, moving, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "SEGMENT", 12)  # ends at a window's end: after 16 frames
    drawn_faces.write_video(tmp_path / "in.mp4", moving)

    def session():
        return uniface.load(folder).session("swapping", drawn_faces.portrait(), fps=30)

    video.edit(session(), tmp_path / "in.mp4", tmp_path / "whole.mp4")
    broken = session()
    run, left = broken.editor.run, iter(range(4))
    monkeypatch.setattr(broken.editor, "run", lambda *a: run(*a) if next(left) < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        video.edit(broken, tmp_path / "in.mp4", tmp_path / "broken.mp4")
    assert len(list(tmp_path.glob(".broken.mp4.*.part/*.npz"))) == 1 and not (tmp_path / "broken.mp4").exists()
    video.edit(session(), tmp_path / "in.mp4", tmp_path / "broken.mp4")
    assert_same_pictures(tmp_path / "whole.mp4", tmp_path / "broken.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "in.mp4", "whole.mp4"]


def assert_same_pictures(one, two):
    assert drawn_faces.described(one) == drawn_faces.described(two)
    with av.open(str(one)) as a, av.open(str(two)) as b:
        for x, y in zip(a.decode(video=0), b.decode(video=0), strict=True):
            assert np.array_equal(x.to_ndarray(), y.to_ndarray())


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(folder, turned, tmp_path):
    drawn_faces.save(tmp_path / "source.png", drawn_faces.portrait())
    command = [sys.executable, "-m", "uniface", "swap", tmp_path / "source.png", turned, "--no-mark"]
    command += ["--model", folder / "swapping.safetensors"]
    environment = os.environ | {"PYTHONPATH": str(drawn_faces.ROOT)}

    def start(out):
        return subprocess.Popen(
            [*map(str, command), "-o", str(out)], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )

    killed = start(tmp_path / "killed.mp4")
    while not list(tmp_path.glob(".killed.mp4.*.part/000001.npz")):
        assert killed.poll() is None, "finished before it could be killed"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert not (tmp_path / "killed.mp4").exists()
    (pieces,) = tmp_path.glob(".killed.mp4.*.part")
    first = (pieces / "000000.nut").stat()
    again, whole = start(tmp_path / "killed.mp4"), start(tmp_path / "whole.mp4")
    assert (pieces / "000000.nut").stat().st_mtime_ns == first.st_mtime_ns
    assert "240 frames" in again.communicate()[0] and "240 frames" in whole.communicate()[0]
    assert_same_pictures(tmp_path / "killed.mp4", tmp_path / "whole.mp4")


def test_a_lost_face_passes_unchanged_and_is_counted(folder, moving):
    editor = uniface.load(folder)
    blank = np.full_like(moving[0], 90)
    frames = [*moving[:9], *[blank] * 7, *moving[16:24]]
    edited = list(editor.swap_frames(drawn_faces.portrait(), iter(frames)))
    assert [e.faces for e in edited] == [1] * 9 + [0] * 7 + [1] * 8
    assert all(np.array_equal(e.image, blank) for e in edited[9:16])
    edited = list(editor.reenact_frames(drawn_faces.portrait(), iter(frames)))
    assert all(np.array_equal(e.image, edited[8].image) for e in edited[9:16])  # the last picture stands
    assert not np.array_equal(edited[8].image, edited[17].image)


def test_the_source_is_looked_at_once(folder, moving, monkeypatch):
    editor = uniface.load(folder)
    network = editor.network("reenactment")
    calls = []
    monkeypatch.setattr(network, "source", lambda image, run=network.source: calls.append(1) or run(image))
    assert len(list(editor.reenact_frames(drawn_faces.portrait(), moving))) == 40
    assert len(calls) == 1


def face(x: float, y: float = 50.0, size: float = 60.0) -> Detection:
    box = np.array([x, y, x + size, y + size])
    marks = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]) * size + [x, y]
    return Detection(box, 0.9, marks)


def plain(count: int, shade: int = 100) -> list[np.ndarray]:
    """Frames told apart by their upper left pixel."""
    frames = [np.full((120, 200, 3), shade, np.uint8) for _ in range(count)]
    for number, frame in enumerate(frames):
        frame[0, 0] = number
    return frames


def follow(positions, smoothing=False, **options):
    """(x of the box in each frame or None, frames looked at) for a face at these places."""
    tracker = track.Tracker(
        lambda frame, regions: [] if positions[frame[0, 0, 0]] is None else [face(positions[frame[0, 0, 0]])],
        smoothing=smoothing,
        **options,
    )
    found = [
        tracks[0].box[0] if tracks else None
        for window in tracker.windows(plain(len(positions)))
        for _, tracks in window
    ]
    return found, tracker.detections


def test_few_frames_are_searched_as_a_whole_and_every_box_is_the_frames_own():
    even = [10 + 1.5 * k for k in range(64)]
    found, looks = follow(even)
    assert found == pytest.approx(even, abs=1e-6) and looks == 64 / track.WINDOW + 1
    jump = [10.0] * 20 + [25.0] * 20
    found, looks = follow(jump)
    assert found == pytest.approx(jump, abs=1e-6) and looks < 10


def test_a_face_that_is_not_where_it_is_expected_is_searched_for():
    """It goes elsewhere between two looks and comes back; it goes for good; it comes."""
    away = [10.0] * 18 + [90.0] * 3 + [10.0] * 11
    assert follow(away)[0] == [10.0] * 18 + [None] * 3 + [10.0] * 11  # the one that was followed
    assert follow(away, face="all")[0] == away
    gone = [10.0] * 11 + [None] * 21
    assert follow(gone)[0] == gone
    came = [None] * 19 + [10.0] * 13
    assert follow(came)[0] == came


def test_boxes_are_those_of_a_detection_in_every_frame(moving):
    """On a sample video, all within a pixel at the worst corner of each box, though few frames are seen as a whole."""
    faces, seen = Faces(drawn_faces.DETECTOR, recognise=False, threads=1), []
    every = [find.glance(faces, 240, frame)[0].box for frame in moving]

    def detect(image, regions):
        seen.append(regions is None)
        return find.glance(faces, 240, image, regions)

    tracker = track.Tracker(detect, smoothing=False)
    boxes = [tracks[0].box for window in tracker.windows(moving) for _, tracks in window]
    assert np.abs(np.array(boxes) - every).max() <= 1
    assert tracker.detections == sum(seen) <= len(moving) / 6 and len(seen) == len(moving)


def test_a_region_is_a_small_piece_of_a_large_frame(monkeypatch):
    """Several faces, each looked for in its own; a region without a face gives none."""
    one = drawn_faces.frame()
    frame = np.zeros((480, 1280, 3), np.uint8)
    frame[240:, :426], frame[240:, 600:1026] = one, one[:, ::-1]
    faces, sizes = Faces(drawn_faces.DETECTOR, recognise=False, threads=1), []
    whole = find.choose(faces.detect(frame, 480), "all")
    assert len(whole) == 2
    detect = faces.detect
    monkeypatch.setattr(faces, "detect", lambda image, *height: sizes.append(image.size) or detect(image, *height))
    regions = [whole[1].box, whole[0].box, np.array([1200.0, 20, 1270, 90])]
    found = find.glance(faces, 480, frame, regions)
    assert len(found) == 2 and max(sizes) < frame.size / 4
    for a, b in zip(found, whole[::-1], strict=True):
        assert np.abs(a.box - b.box).max() <= 1 and np.abs(a.landmarks - b.landmarks).max() <= 1


def test_smoothing_steadies_a_face_at_rest_and_follows_one_in_motion():
    noise = np.random.default_rng(0).normal(0, 0.6, 80)
    rest, _ = follow((60 + noise).tolist(), smoothing=True)
    assert np.std(np.diff(rest)) < 0.5 * np.std(np.diff(60 + noise))
    moving = [10 + 3.0 * k for k in range(40)]  # more than a face size a second
    found, _ = follow(moving, smoothing=True)
    assert abs(found[-1] - moving[-1]) < 6  # a tenth of the face


def test_a_cut_starts_anew():
    frames = plain(10, shade=40) + plain(10, shade=180)
    place = {40: 20.0, 180: 45.0}  # overlapping: without the cut it would be one face, smoothed over
    tracker = track.Tracker(lambda frame, regions: [face(place[int(frame[5, 5, 0])])])
    found = [tracks[0].box[0] for window in tracker.windows(frames) for _, tracks in window]
    assert found == [20.0] * 10 + [45.0] * 10


def test_the_chosen_face_is_followed_not_chosen_again():
    """Two faces; the smaller is chosen as the left one and stays chosen when the larger moves past it."""

    def detect(frame, regions):
        return [face(60.0, size=40), face(float(frame[0, 0, 0]) * 3 + 80, y=45, size=70)]

    tracker = track.Tracker(detect, face="left", smoothing=False)
    lefts = [tracks[0].box[0] for window in tracker.windows(plain(24)) for _, tracks in window]
    assert lefts == pytest.approx([60.0] * 24)
    everyone = track.Tracker(detect, face="all", smoothing=False)
    assert {len(tracks) for window in everyone.windows(plain(24)) for _, tracks in window} == {2}


def test_what_is_no_video_or_no_format(folder, moving, tmp_path):
    session = uniface.load(folder).session("swapping", drawn_faces.portrait())
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    drawn_faces.write_video(tmp_path / "in.mp4", moving[:4])
    with pytest.raises(ValueError, match="not a video"):
        video.edit(session, tmp_path / "junk.mp4", tmp_path / "out.mp4")
    with pytest.raises(ValueError, match=r"videos are written as \.mp4"):
        video.edit(session, tmp_path / "in.mp4", tmp_path / "out.webm")
