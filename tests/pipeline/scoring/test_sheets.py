"""Pictures of what a model does inside show what they say: directions, colours, nearest and best ones."""

import json

import numpy as np
import torch
from PIL import Image

from pipeline.common.sheets import LABEL, MARGIN, sheet, write_sheet
from pipeline.scoring import sheets
from pipeline.scoring.held_out import Pairs
from pipeline.scoring.tables import Table
from uniface import explain


def flat(*levels: int) -> np.ndarray:
    return np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels])


def test_arrows_end_where_content_goes():
    fdf = np.zeros((2, 8, 8))
    still = sheets.arrows(flat(0)[0], fdf)
    fdf[0] = 0.25  # taken from an eighth of the picture further right
    moved = sheets.arrows(flat(0)[0], fdf)
    line = (moved != still).any(axis=-1)
    assert line.any() and np.array_equal(moved[:, :4], still[:, :4])  # nothing left of the first place
    middle = np.flatnonzero(line[:, : moved.shape[1] // sheets.ARROWS].any(axis=0))
    assert middle.min() >= moved.shape[1] / sheets.ARROWS / 2 - 3


def test_features_that_are_alike_have_one_colour():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(2, 8, 4, 4))
    after = np.roll(before, 1, axis=-1)
    first, second = sheets.features(before, after)
    assert first.shape == (2, 4, 4, 3) and first.dtype == np.uint8 and first.std() > 20
    np.testing.assert_array_equal(np.roll(first, 1, axis=2), second)


class Brightness(torch.nn.Module):
    """An attribute embedder whose z_t is how bright a picture is, as an angle."""

    def encode(self, images):
        angle = images.mean(dim=(1, 2, 3))
        return torch.stack([angle.cos(), angle.sin()], 1)


class Model(torch.nn.Module):
    def __init__(self, embedder):
        super().__init__()
        self.attribute_embedder, self.weight = embedder, torch.nn.Parameter(torch.zeros(1))


def test_retrieval_finds_other_persons_of_the_same_attributes():
    levels = (0, 10, 20, 100, 110, 200)
    who = ("a", "a", "b", "c", "d", "e")
    pairs = Pairs(flat(*(level + 2 for level in levels)), flat(*levels), who, who, who, who)
    labels, columns = sheets.retrieval_sheet(Model(Brightness()), pairs)
    assert labels == ["query", "nearest 1", "nearest 2", "nearest 3", "nearest 4"]
    queries = columns[0][:, 0, 0, 0].tolist()
    assert queries == [0, 100, 200]  # of a, c and e: three of five persons
    assert [int(column[0, 0, 0, 0]) for column in columns[1:]] == [20, 100, 110, 200]  # not a's other ones; each once
    assert sheets.retrieval_sheet(Model(None), pairs) is None


def test_extremes_are_the_pairs_with_the_best_and_the_worst_value(tmp_path):
    values = {"psnr": np.array([20.0, np.nan, 30.0, 25.0]), "ape": np.array([1.0, 2.0, 3.0, 2.5])}
    values |= {"no_face": np.array([0.0, 1.0, 0.0, 0.0]), "psnr_fixed_crop": np.arange(4.0)}  # not shown
    table = Table((("s", "t"),) * 4, (("s", "t"),) * 4, {"model": values})
    (labels, columns), names = sheets.extremes_sheet("swapping", table, {"output": flat(0, 100, 200, 50)})
    assert labels == ["best: output", "worst: output"]
    assert columns[0][:, 0, 0, 0].tolist() == [200, 0] and columns[1][:, 0, 0, 0].tolist() == [0, 200]
    assert names == ["psnr\nbest 30\nworst 20", "ape\nbest 1\nworst 3"]
    write_sheet(tmp_path / "sheet.png", labels, columns, names)
    with Image.open(tmp_path / "sheet.png") as image:
        place = json.loads(image.info["sheet"])
        pixels = np.asarray(image)
    assert place == {
        "labels": labels, "rows": names, "left": MARGIN, "top": LABEL, "width": 128, "height": 128, "gap": 2
    }  # fmt: skip
    assert pixels[LABEL, MARGIN].tolist() == [200] * 3 and pixels[-1, -1].tolist() == [200] * 3


def test_colour_field_shows_direction_and_length():
    field = np.zeros((2, 2, 2))
    field[:, 0, 1], field[:, 1, 0], field[:, 1, 1] = (1, 0), (-1, 0), (0.5, 0)
    picture = explain.colour_field(field, largest=1.0).astype(int)
    assert picture[0, 0].tolist() == [255, 255, 255]  # no displacement
    assert picture[0, 1].tolist() == [255, 0, 0] and picture[1, 0, 0] < 10  # opposite directions, opposite hues
    assert picture[1, 1, 0] == 255 and 120 < picture[1, 1, 1] < 135  # half the length, half the colour


def test_heat_lights_up_where_the_weight_is():
    weights = np.zeros((4, 4))
    weights[1, 2] = 3.0
    picture = explain.heat(np.full((32, 32, 3), 100, np.uint8), weights)
    assert picture[..., 0].argmax() in {row * 32 + column for row in (11, 12) for column in (19, 20)}
    assert picture.max() > 225 and picture[28, 4].tolist() == [60, 60, 60]


def test_a_sheet_puts_each_column_under_its_label():
    columns = [np.full((2, 16, 16, 3), level, np.uint8) for level in (10, 200)]
    picture = sheet(("left", "right"), columns)
    assert picture.shape == (LABEL + 2 * 128 + 2, 2 * 128 + 2, 3)
    assert picture[LABEL + 5, 5, 0] == 10 and picture[-5, -5, 0] == 200
    assert (picture[:LABEL, :60] < 128).any() and (picture[:LABEL, 130:200] < 128).any()
