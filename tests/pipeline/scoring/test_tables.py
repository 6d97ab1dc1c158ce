"""Tables of pairs: from disk and back, beside the champion, and what a Frechet distance owes to few pictures."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.scoring import tables
from pipeline.scoring.tables import Table

N = 40


def table(better_by: float = 0.0) -> Table:
    """A model that beats copying the source by 3 dB, give or take 0.1, on pairs of ten persons."""
    rng = np.random.default_rng(0)
    base = rng.normal(20, 4, N)
    rows = {
        "model": {"psnr": base + 3 + better_by + rng.normal(0, 0.1, N), "ape": np.full(N, 2.0)},
        "copy_source": {"psnr": base, "csim": np.ones(N)},
    }
    who = tuple((f"s{k % 10}", f"t{k % 7}") for k in range(N))
    return Table(tuple((f"a{k}", f"b{k}") for k in range(N)), who, rows)


def test_differences_are_on_the_same_pairs_and_sets_have_no_interval():
    lines = tables.intervals("reenactment", table(), {"model": {"fid": 5.0}, "copy_source": {"fid": 2.0}})
    found = {(line["picture"], line["metric"]): line for line in lines}
    model, copy = found["model", "psnr"], found["copy_source", "psnr"]
    assert model["low"] < model["value"] < model["high"] and model["difference"] is None
    assert copy["difference_low"] < copy["difference"] < copy["difference_high"]
    assert copy["difference"] == pytest.approx(3, abs=0.05) and copy["difference_high"] - copy["difference_low"] < 0.2
    assert model["high"] - model["low"] > 1  # 20 times as wide: the pairs differ much more than the two
    assert found["copy_source", "csim"]["difference"] is None  # the model has none
    assert (found["model", "fid"]["low"], found["copy_source", "fid"]["difference"]) == (None, 3.0)


def test_a_champion_of_the_same_pairs_stands_beside_and_another_does_not():
    champion = table(better_by=1.0)
    lines = tables.intervals("reenactment", tables.beside(table(), champion), {})
    (line,) = [line for line in lines if line["picture"] == "champion" and line["metric"] == "psnr"]
    assert line["difference"] == pytest.approx(-1, abs=1e-4) and line["difference_high"] < 0
    others = replace(champion, names=champion.names[::-1])
    assert "champion" not in tables.beside(table(), others).rows
    ours = table()
    assert tables.beside(ours, None) is ours


def test_a_table_is_read_from_its_two_files(tmp_path):
    ours = table()
    ours.rows["model"]["psnr"][3] = np.nan
    for folder, head, lines in (
        ("pairs", ("source", "target", "source_identity", "target_identity"),
         [(*names, *whom) for names, whom in zip(ours.names, ours.identities, strict=True)]),
        ("rows", ("picture", "pair", "psnr"),
         [(p, k, "" if np.isnan(v) else v) for p, row in ours.rows.items() for k, v in enumerate(row["psnr"])]),
    ):  # fmt: skip
        (tmp_path / folder).mkdir()
        with (tmp_path / folder / "swapping.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *lines])
    found = tables.read_table(tmp_path, "swapping")
    assert found.names == ours.names and found.identities == ours.identities
    for picture in ours.rows:
        np.testing.assert_array_equal(found.rows[picture]["psnr"], ours.rows[picture]["psnr"])
    text = (tmp_path / "rows/swapping.csv").read_text()
    (tmp_path / "rows/swapping.csv").write_text(text[: text.rindex("copy_source")])  # one row less
    with pytest.raises(ValueError, match="copy_source has 39 rows"):
        tables.read_table(tmp_path, "swapping")


def test_which_way_a_metric_is_better():
    higher = "psnr", "csim_fixed_crop", "csim_loss_recogniser", "right_face", "right_pose", "above_mean_frame"
    ways = {name: tables.better(name, "swapping") for name in higher}
    assert set(ways.values()) == {"higher"}
    for name in ("csim_target", "csim_target_fixed_crop", "ape", "fid", "lpips", "no_face", "perceptual_stand_in"):
        assert tables.better(name, "swapping") == "lower"
    assert tables.better("csim_target", "reconstruction") == "higher"


def test_a_frechet_distance_of_few_pictures_is_told_from_that_of_many():
    """Two Gaussians whose means differ by 0.1 in each of 40 dimensions: the distance is 0.4."""
    draw = torch.Generator().manual_seed(0)
    found, source, target = (torch.randn(400, 40, generator=draw) + shift for shift in (0.1, 0, 0))
    report = tables.frechet_bias(found, source, target)
    assert report["bias"] > 1.0  # what is measured is several times the truth
    assert report["at_infinity"] == pytest.approx(0.4, abs=0.25)
    assert tables.frechet_bias(found[:60], source[:60], target[:60])["at_infinity"] is None  # no full rank
