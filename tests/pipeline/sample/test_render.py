"""The renderer: identities, attributes, geometry of a drawn face."""

from dataclasses import fields, replace

import numpy as np
import pytest

from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.drawing.look import HAIR_STYLES, Look, Scene
from pipeline.sample.drawing.motion import trajectory
from pipeline.sample.drawing.render import Renderer
from pipeline.sample.gallery import POSES, draw_gallery
from uniface.images import read_image

SIZE = (64, 64)


def person(index: int = 0) -> tuple[Face, Look, Scene]:
    rng = np.random.default_rng([9, index])
    return Face.sample(rng), Look.sample(rng), Scene.sample(rng)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(*person(), SIZE)


def test_sampling_follows_the_generator_only():
    assert person(1) == person(1) and person(1) != person(2)
    assert Attributes.sample(np.random.default_rng(3)) == Attributes.sample(np.random.default_rng(3))


def test_samples_stay_in_their_ranges():
    rng = np.random.default_rng(0)
    for _ in range(200):
        for attributes in (Attributes.sample(rng), Attributes.portrait(rng)):
            for name, (low, high) in Attributes.RANGES.items():
                assert low <= getattr(attributes, name) <= high, name
        look = Look.sample(rng)
        assert look.style in HAIR_STYLES and min(look.skin) >= 0 and max(look.skin) <= 255
    for attributes in trajectory(rng, 100):
        for name, (low, high) in Attributes.RANGES.items():
            assert low - 1e-9 <= getattr(attributes, name) <= high + 1e-9, name


def test_vector_names_every_visible_parameter_once():
    face = person()[0]
    assert face.vector().shape == (len(Face.VECTOR_NAMES),) and face.vector().dtype == np.float32
    assert len(set(Face.VECTOR_NAMES)) == len(Face.VECTOR_NAMES)
    stems = {f.name for f in fields(Face)} - {"texture"}
    assert all(any(name == s or name[:-2] == s for s in stems) for name in Face.VECTOR_NAMES)
    assert Attributes().vector().shape == (len(fields(Attributes)),)


def test_hidden_parts_are_zero_in_the_vector():
    face = replace(person()[0], glasses=False, mark=False, mole=False, beard=0.0, lip_tint=0.5)
    values = dict(zip(Face.VECTOR_NAMES, face.vector(), strict=True))
    for part in ("glasses", "mark", "mole", "beard"):
        assert all(v == 0 for name, v in values.items() if name.startswith(part)), part
    worn = dict(zip(Face.VECTOR_NAMES, replace(face, glasses=True).vector(), strict=True))
    assert worn["glasses"] == 1 and worn["glasses_radius"] == np.float32(face.glasses_radius)
    assert values["lip_colour_r"] == pytest.approx(face.lip_colour[0] / 255 / 2)
    assert np.array_equal(face.vector(), replace(face, texture=1).vector())


def test_frames_are_pictures_and_repeat_exactly(renderer):
    image = renderer.frame(Attributes(yaw=10))
    assert image.shape == (*SIZE, 3) and image.dtype == np.uint8 and image.std() > 15
    assert np.array_equal(Renderer(*person(), SIZE).frame(Attributes(yaw=10)), image)
    renderer.frame(Attributes(mouth=1))
    assert np.array_equal(renderer.frame(Attributes(yaw=10)), image), "frames do not depend on earlier ones"


def test_landmarks_follow_the_pose(renderer):
    def at(**attributes) -> np.ndarray:
        return renderer.measure(Attributes(**attributes))[0]

    still = at()
    left_eye, right_eye, nose, left_mouth, right_mouth = still
    assert left_eye[0] < nose[0] < right_eye[0] and left_eye[1] < nose[1] < left_mouth[1]
    assert abs(left_eye[1] - right_eye[1]) < 0.5 and left_mouth[0] < right_mouth[0]
    assert at(yaw=30)[2, 0] > still[2, 0] + 3 and at(yaw=-30)[2, 0] < still[2, 0] - 3
    assert at(pitch=15)[2, 1] > still[2, 1] + 2
    tilted = at(roll=10)
    angle = np.degrees(np.arctan2(*(tilted[1] - tilted[0])[::-1]))
    assert angle == pytest.approx(10, abs=1.5)
    assert np.linalg.norm(at(scale=1.06)[1] - at(scale=1.06)[0]) > np.linalg.norm(right_eye - left_eye)
    assert at(smile=1)[4, 0] > still[4, 0], "a smile widens the mouth"


def test_landmarks_lie_on_what_is_drawn():
    """Only the pixels around the landmarks of a part change when that part moves."""
    renderer = Renderer(*person(), (128, 128))
    still, landmarks = renderer.frame(Attributes()), renderer.measure(Attributes())[0]
    for change, marks in (({"blink": 1.0}, landmarks[:2]), ({"pucker": 1.0}, landmarks[3:])):
        moved = np.abs(renderer.frame(Attributes(**change)).astype(int) - still).sum(2)
        rows, columns = np.nonzero(moved > 40)
        reach = np.abs(np.array([columns.mean(), rows.mean()]) - marks.mean(0))
        assert len(rows) > 20 and reach[0] < 3 and reach[1] < 10, change
        assert (columns < marks[0, 0] + 5).any() and (columns > marks[1, 0] - 5).any(), "on both sides"


def test_both_eyes_look_the_same_way():
    renderer = Renderer(*person(), (128, 128))
    eyes = renderer.measure(Attributes())[0][:2].round().astype(int)
    left, right = (renderer.frame(Attributes(gaze_x=gaze)).astype(int).sum(2) for gaze in (-1, 1))
    for x, y in eyes:  # the iris is the dark part
        darker = (right - left)[y - 4 : y + 5, x - 8 : x + 9].sum(0)
        assert darker[:8].sum() > 0 > darker[9:].sum(), "the iris has gone to the right of the picture"


def test_measure_boxes_the_face(renderer):
    attributes = Attributes(yaw=-20, mouth=0.5, smile=0.3)
    landmarks, box = renderer.measure(attributes)
    assert landmarks.shape == (5, 2) and landmarks.dtype == box.dtype == np.float32
    assert (landmarks > box[:2]).all() and (landmarks < box[2:]).all()
    opened = renderer.measure(replace(attributes, mouth=1))[1]
    assert opened[3] > box[3], "the chin drops"
    shifted = renderer.measure(attributes, centre=(renderer.centre[0] + 5, renderer.centre[1]))[1]
    assert shifted - box == pytest.approx([5, 0, 5, 0], abs=1e-3)


def test_each_part_of_a_person_changes_its_own_place():
    face, look, scene = person()
    face, look = replace(face, glasses=False, mark=False), replace(look, style="short")
    unit = SIZE[0] / 3  # from afar, with shoulders and a wall
    base = Renderer(face, look, scene, SIZE, unit).frame(Attributes()).astype(int)

    def changed(**parts) -> np.ndarray:
        drawn = Renderer(parts.get("face", face), parts.get("look", look), parts.get("scene", scene), SIZE, unit)
        return np.abs(drawn.frame(Attributes()) - base).sum(2)

    glasses = changed(face=replace(face, glasses=True, glasses_colour=(220, 220, 220)))
    assert glasses[20:36].sum() > 0 and glasses[48:].sum() == 0
    shirt = changed(look=replace(look, cloth=(255, 0, 0)))
    assert shirt[:40].sum() == 0 and shirt[58:].sum() > 0
    wall = changed(scene=replace(scene, hue=(scene.hue + 90) % 180))
    assert wall[:8, :8].mean() > 5 and wall[24:44, 26:38].sum() == 0


def test_bold_cues_show_at_64_pixels():
    """Another identity under the same look, scene and attributes changes the face far beyond noise."""
    _, look, scene = person()
    faces = [Renderer(person(i)[0], look, scene, SIZE).frame(Attributes())[18:54, 18:46] for i in range(8)]
    apart = [np.abs(a.astype(int) - b).mean() for i, a in enumerate(faces) for b in faces[:i]]
    assert np.median(apart) > 8


def test_backgrounds_are_taken_as_given():
    scene = person()[2]
    flat = np.full((*SIZE, 3), 77.0)
    image = Renderer(*person(), SIZE, background=flat).frame(Attributes())
    assert (image[:4, :4] == 77).all()
    with pytest.raises(ValueError, match="background"):
        Renderer(*person()[:2], scene, SIZE, background=flat[:5])


def test_a_head_outside_the_picture_leaves_the_background():
    renderer = Renderer(*person(), SIZE)
    far = renderer.frame(Attributes(), centre=(1000.0, 30.0))
    assert np.array_equal(far[:20], np.clip(renderer.background[:20], 0, 189).astype(np.uint8))


def test_gallery_is_one_picture(tmp_path):
    draw_gallery(tmp_path / "g.png", identities=1, size=48)
    assert read_image(tmp_path / "g.png").shape == (48 + 68, 48 * len(POSES), 3)
