"""`python -m uniface`: the commands about model files."""

import argparse
from pathlib import Path

import pytest
import tiny
import torch
from official import state_dict

from uniface.__main__ import main
from uniface.model import UniFace, read_metadata
from uniface.released import reenactment_config, swapping_config
from uniface.summary import costs


def _as(content):
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: path.write_text("# UniFace workflow\n"), "is no checkpoint of tensors"),
        (lambda path: path.write_bytes(b""), "is no checkpoint of tensors"),
        (lambda path: UniFace(tiny.config()).save(path), "is a safetensors file"),
        (_as({f"layer{n}.weight": torch.zeros(1) for n in range(400)}), "and 395 more: expected g_ema"),
        (_as({"g_ema": "text", "e_ema": 5}), "has a str as g_ema"),
        (_as({"g_ema": {"decoder.input.input": torch.zeros(1, 8, 4, 4)}, "e_ema": {}, "e_ema_p": {}}), "does not fit"),
        (_as([torch.zeros(1)]), "holds a list"),
        (_as({"g_ema": Path}), "never unpickled"),
    ],
)
def test_what_is_no_released_checkpoint_is_said_in_one_sentence(tmp_path, write, says, capsys):
    write(tmp_path / "foreign.pt")
    assert main(["import", str(tmp_path / "foreign.pt"), "-o", str(tmp_path / "ours.safetensors")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said and len(said) < 400 and "weights_only" not in said


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
