"""`python -m uniface`: the commands about model files."""

import argparse

import pytest
import torch
from official import state_dict

from uniface.__main__ import main
from uniface.model import read_metadata
from uniface.released import reenactment_config, swapping_config
from uniface.summary import costs


def test_import_writes_a_model_that_loads(tmp_path, capsys):
    names = {"g_ema": "Generator_globalatt_return_32", "e_ema": "Encoder_return_32"}
    content = {entry: state_dict(module) for entry, module in names.items()}
    torch.save(content | {"train_args": argparse.Namespace(lr=0.001)}, tmp_path / "swap.pt")
    assert main(["import", str(tmp_path / "swap.pt"), "-o", str(tmp_path / "swap.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "swapping" in out and "style_mix.top.0.weight" in out
    config, extra = read_metadata(tmp_path / "swap.safetensors")
    assert config == swapping_config() and extra["imported_from"] == "swap.pt"


def test_summary_prints_the_table_of_the_papers_model(capsys):
    assert main(["summary"]) == 0
    out = capsys.readouterr().out
    for part in ("identity_embedder", "attribute_embedder", "identity_transfer", "generator", "discriminator"):
        assert f"| {part} |" in out


def test_counts_of_the_released_networks_are_the_releases():
    """Parameters and GFLOPs as measured on the official modules, dead layers subtracted."""
    found = costs(reenactment_config())
    dead = 64 * 128 * 9 + 64 + 128 * 256 * 9 + 128  # up1, up2 of Encoder_Pose
    assert found["identity_embedder"].parameters == 14_700_672
    assert found["attribute_embedder"].parameters == 30_528_386 - dead
    assert found["generator"].parameters == 62_864_259
    assert found["discriminator"].parameters == 28_864_129
    assert found["identity_embedder"].reenactment / 1e9 == pytest.approx(100.8, rel=0.02)
    assert found["attribute_embedder"].reenactment / 1e9 == pytest.approx(8.1, rel=0.02)
    assert found["generator"].reenactment / 1e9 == pytest.approx(473.4, rel=0.02)
    found = costs(swapping_config())
    assert found["identity_embedder"].parameters == 9_718_912
    assert found["generator"].parameters + found["identity_transfer"].parameters == 44_641_668 - 512 * 1024 - 512
