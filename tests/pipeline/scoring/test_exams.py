"""Kinds of pairs: the paper's six seeds of 1,000 videos, lists written out and given back, data that are not there."""

from types import SimpleNamespace

import numpy as np
import pytest
from made_pairs import Clips

from pipeline.scoring import exams
from pipeline.scoring.held_out import SEEDS, listed_clips, listed_portraits, video_pairs
from pipeline.sections import ExamParams


@pytest.mark.parametrize("cross", [False, True])
def test_each_of_the_chosen_videos_is_source_once_under_each_seed(cross):
    pairs, jobs = video_pairs(Clips(), 6 * SEEDS, seed=1, cross=cross)
    assert len(pairs) == len(jobs) == 36
    videos = [[int(image[0, 0, 0]) // 2 for image in images] for images in (pairs.source, pairs.target)]
    rounds = [videos[0][k : k + 6] for k in range(0, 36, 6)]
    assert len(set(rounds[0])) == 6 and all(one == rounds[0] for one in rounds)
    assert set(videos[1]) <= set(rounds[0])
    persons = [[v // 2 for v in side] for side in videos]
    assert all((a != b) is cross for a, b in zip(*persons, strict=True))
    frames = {tuple(image[0, 0, :2]) for image in pairs.source[::6]}
    assert len(frames) > 1  # another frame under another seed
    assert jobs == video_pairs(Clips(), 36, seed=1, cross=cross)[1] != video_pairs(Clips(), 36, seed=2, cross=cross)[1]
    if not cross:
        assert all(a != b for a, b in zip(pairs.source_key, pairs.target_key, strict=True))


def test_too_few_videos_are_said_with_the_number_that_would_do():
    with pytest.raises(ValueError, match=r"60 pairs are 10 test videos under 6 seeds, and there are 8 .*pairs to 48"):
        video_pairs(Clips(), 60, seed=0, cross=False)
    with pytest.raises(ValueError, match="two persons"):
        video_pairs(Clips(4), 6, seed=0, cross=True)


def test_an_unreadable_clip_costs_no_pair(capsys):
    pairs, _ = video_pairs(Clips(broken=(3,)), 8 * SEEDS, seed=0, cross=False)
    assert len(pairs) == 48 and 3 not in pairs.source[:, 0, 0, 0]
    assert "unreadable clip: clip 3" in capsys.readouterr().out


def test_a_list_written_out_gives_the_same_pairs(tmp_path):
    pairs, jobs = video_pairs(Clips(), 12, seed=3, cross=True)
    exams.write_list(tmp_path / "exam.csv", pairs)
    again, jobs_again = listed_clips(Clips(), exams.read_list(tmp_path / "exam.csv"))
    assert jobs == jobs_again and np.array_equal(again.target, pairs.target) and again.source_key == pairs.source_key
    assert pairs.source_key[0].count("/") == 3 and (tmp_path / "exam.csv").read_text().startswith("source,target,")
    with pytest.raises(ValueError, match="'p0/v0/u/0@10', and no test clip has that frame"):
        listed_clips(Clips(), [("p0/v0/u/0@10", "p0/v0/u/0@1")])


class Portraits:
    folder, split = "data/pairs", "test"

    def image(self, name):
        return {"a": np.zeros((2, 2, 3), np.uint8), "b": np.ones((2, 2, 3), np.uint8)}[name]

    def identity(self, name):
        return name.upper()


def test_listed_pictures_are_taken_by_their_ids():
    pairs, jobs = listed_portraits(Portraits(), [("a", "b"), ("b", "a")])
    assert jobs == [("a", "b"), ("b", "a")] and pairs.source_identity == ("A", "B") and pairs.target_key == ("b", "a")
    with pytest.raises(ValueError, match="the list names 'c', and data/pairs has no such picture"):
        listed_portraits(Portraits(), [("a", "c"), ("a", "b")])


def test_a_list_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected source,target"):
        exams.read_list(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("source,target\n1,2\n")
    with pytest.raises(ValueError, match="lists 1 pairs"):
        exams.read_list(tmp_path / "x.csv")


def test_an_exam_without_data_is_named(tmp_path):
    places = SimpleNamespace(root=tmp_path, faceforensics=tmp_path / "data/faceforensics")
    params = SimpleNamespace(evaluate=SimpleNamespace(pairs=10, pair_lists="none"), seed=0)
    exam = ExamParams("swapping", "swapping", "faceforensics")
    with pytest.raises(FileNotFoundError, match=r"exam ff: .*data/faceforensics has no pairs: name the folder"):
        exams.pairs_of("ff", exam, params, places)
