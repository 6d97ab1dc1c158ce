"""Held-out pairs: which they are, whom they show, their exact answers, and wrong ones beside those."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_pairs import SIZE, Clips, made_pairs, picture, small_params

from pipeline.scoring import decoys as scoring_decoys
from pipeline.scoring import held_out
from pipeline.scoring.decoys import looks_right
from pipeline.scoring.held_out import clip_pairs, exact, others, portrait_pairs
from uniface.data import CorruptMedia


@pytest.fixture(scope="module")
def params():
    return small_params()


def test_clip_pairs_are_of_one_clip_or_of_two_persons_and_know_where_they_come_from(capsys):
    for cross in (False, True):
        pairs, jobs = clip_pairs(Clips(6, broken=(3,)), 40, seed=1, cross=cross)
        assert len(pairs) == len(jobs) == 40
        for k, job in enumerate(jobs):
            (i, a), (j, b) = (image[0, 0, :2].tolist() for image in (pairs.source[k], pairs.target[k]))
            assert job == ((f"v{i // 2}", 100 * i + a, (0, 1, 2, i)), (f"v{j // 2}", 100 * j + b, (0, 1, 2, j)))
            assert 3 not in (i, j)
            assert (i // 4 != j // 4) if cross else (i == j and a != b)
            assert pairs.source_identity[k] == f"p{i // 4}"
            assert pairs.mean_frame[k, 0, 0].tolist() == [i, 4, 0]  # of 0..9, rounded to even
        assert "unreadable clip: clip 3" in capsys.readouterr().out
        again = clip_pairs(Clips(6, broken=(3,)), 40, seed=1, cross=cross)[1]
        assert jobs == again != clip_pairs(Clips(6, broken=(3,)), 40, seed=2, cross=cross)[1]


def test_clip_pairs_say_when_there_are_too_few():
    with pytest.raises(ValueError, match="two persons"):
        clip_pairs(Clips(2), 5, seed=0, cross=True)
    with pytest.raises(ValueError, match="only 0 of 5"):
        clip_pairs(Clips(2, broken=(0, 1)), 5, seed=0, cross=False)


class Portraits:
    """PairDataset's face: every fifth row pairs an image with itself; row 1 is broken."""

    folder, split = Path("data/pairs"), "test"

    def __init__(self, rows=20):
        self.rows = rows

    def __len__(self):
        return self.rows

    def same(self, k):
        return k % 5 == 0

    def identity(self, name):
        return int(name) // 10

    def pair(self, k):
        if k == 1:
            raise CorruptMedia("image 1")
        source, target = (np.full((2, 2, 3), level, np.uint8) for level in (k, 100 + k))
        return source, target, self.same(k), (f"{k}", f"{90 + k}")


def test_portrait_pairs_are_of_two_identities_and_spread_over_the_table(capsys):
    pairs, jobs = portrait_pairs(Portraits(), 5)
    assert jobs == [(str(k), str(90 + k)) for k in (6, 11, 14, 19)]  # of 1, 6, 11, 14, 19
    assert "unreadable pair: image 1" in capsys.readouterr().out
    assert pairs.source[:, 0, 0, 0].tolist() == [6, 11, 14, 19] and pairs.target_identity == ("9", "10", "10", "10")
    everything = portrait_pairs(Portraits(), 99)[1]
    assert len(everything) == 15 and not [k for k, _ in everything if int(k) % 5 == 0]
    with pytest.raises(ValueError, match="only 1 readable pairs"):
        portrait_pairs(Portraits(3), 5)


def test_others_are_never_the_same_person():
    who, whom = list("aabbccabc"), list("bcacabbca")
    order = others(who, whom)
    assert all(who[j] not in (who[i], whom[i]) for i, j in enumerate(order))
    assert len(set(order.tolist())) > 3  # not always the same stranger
    pairwise = others(["a", "b", "a", "b"], ["b", "a", "b", "a"])  # nobody else there: at least not the own one
    assert pairwise.tolist() == [1, 2, 3, 0]
    assert others(["a", "a"]) is None


@pytest.mark.parametrize("few", [0, 2])  # in other processes, here
def test_exact_truth_is_rendered_once(params, tmp_path, monkeypatch, few):
    from pipeline.sample import truth
    from pipeline.sample.world import World

    monkeypatch.setattr(held_out, "FEW", few)
    world = World(params.sample, params.seed)
    video, other = (v for v in world.videos if v.split == "test")
    box = (20.0, 20.0, 180.0, 180.0)
    jobs = [((video.video_id, 3, box), (video.video_id, 3, box)), ((video.video_id, 3, box), (other.video_id, 9, box))]
    images = exact("reenactment", jobs, params, tmp_path)
    assert images.shape == (2, SIZE, SIZE, 3)
    assert np.array_equal(images[1], truth.reenacted(world, *jobs[1], SIZE))
    monkeypatch.setattr(held_out, "ProcessPoolExecutor", None)
    monkeypatch.setattr(held_out, "_render", None)
    assert np.array_equal(exact("reenactment", jobs, params, tmp_path), images)  # from the file
    with pytest.raises(TypeError):
        exact("reenactment", jobs, replace(params, seed=7), tmp_path)  # another world: not from the file


def test_only_a_picture_of_the_right_thing_is_nearer_to_the_answer_than_to_decoys():
    pairs = made_pairs()
    wrong = np.stack([pairs.truth[:4]] * 3, axis=1)  # the last two pairs have none
    for k in range(3):
        wrong[:, k, 8:24, 8:24] = np.stack([picture(200 + 10 * k + i) for i in range(4)])[:, 8:24, 8:24]
    pairs = replace(pairs, decoys={"right_face": wrong})
    shown = pairs.truth.copy()
    shown[0, 8:24, 8:24] = cv2.blur(shown[0], (5, 5))[8:24, 8:24]
    shown[1] = wrong[1, 2]
    shown[2] = pairs.target[2]
    found = looks_right(shown, pairs)["right_face"].numpy()
    assert found[[0, 1, 3]].tolist() == [1, 0, 1] and np.isnan(found[4:]).all()
    equal = replace(pairs, decoys={"right_face": pairs.truth[:4, None]})
    assert looks_right(pairs.truth, equal)["right_face"][:4].sum() == 0  # as near to a decoy: not told apart


def test_decoys_are_for_the_first_pairs_and_told_by_what_is_wrong(params, tmp_path, monkeypatch):
    from pipeline.sample.world import World

    world = World(params.sample, params.seed)
    box, (video, other) = (20.0, 20.0, 180.0, 180.0), (v.video_id for v in world.videos if v.split == "test")
    jobs = [((video, 3 * k, box), (other, k, box)) for k in range(3)]
    monkeypatch.setattr(scoring_decoys, "PAIRS", 2)
    right, found = scoring_decoys.answers("reenactment", jobs, params, tmp_path)
    assert np.array_equal(right, exact("reenactment", jobs, params, tmp_path))  # of the last pair alone, too
    assert {name: wrong.shape for name, wrong in found.items()} == dict.fromkeys(
        ("right_face", "right_expression", "right_pose"), (2, 4, SIZE, SIZE, 3)
    )
    ids = [portrait.image_id for portrait in world.portraits if portrait.split == "test"]
    right, found = scoring_decoys.answers("swapping", [(ids[0], ids[1])], params, tmp_path)
    assert right.shape == (1, SIZE, SIZE, 3) and list(found) == ["right_face"]
