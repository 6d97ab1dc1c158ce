"""The importer: finds EMA weights, says what it used and dropped, unpickles nothing dangerous."""

import argparse

import pytest
import torch
from official import MODULES, state_dict

from uniface.discriminator import Discriminator
from uniface.model import UniFace
from uniface.released import convert, import_checkpoint, reenactment_config, swapping_config


def expected_names(module: str) -> set[str]:
    with torch.device("meta"):
        model = {
            "Discriminator": lambda: Discriminator(reenactment_config()),
            "Generator_globalatt_return_32": lambda: UniFace(swapping_config()),
            "Encoder_return_32": lambda: UniFace(swapping_config()),
        }.get(module, lambda: UniFace(reenactment_config()))()
    names = {name: tuple(p.shape) for name, p in model.named_parameters()}
    prefixes = {
        "Encoder_32": ("identity_embedder.",),
        "Encoder_return_32": ("identity_embedder.",),
        "Encoder_Pose": ("attribute_embedder.",),
        "Generator_32": ("generator.",),
        "Generator_globalatt_return_32": ("generator.", "identity_transfer."),
        "Discriminator": ("",),
    }[module]
    return {(name, shape) for name, shape in names.items() if name.startswith(prefixes)}


@pytest.mark.parametrize("module", list(MODULES))
def test_every_official_parameter_has_one_place(module):
    shapes = MODULES[module]["state_dict"]
    official = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    converted, dropped = convert(module, official)
    assert {(name, tuple(value.shape)) for name, value in converted.items()} == expected_names(module)
    dead = sum(torch.Size(shapes[key]).numel() for key in dropped)
    assert sum(value.numel() for value in converted.values()) + dead == MODULES[module]["n_params"]


def test_unknown_modules_and_keys_are_refused():
    with pytest.raises(ValueError, match="Encoder_64"):
        convert("Encoder_64", {})
    with pytest.raises(ValueError, match=r"convs\.9\.magic"):
        convert("Encoder_32", {"convs.9.magic": torch.zeros(1)})
    with pytest.raises(ValueError, match="other half"):
        convert("Generator_32", {"decoder.conv1.conv.gamma.bias": torch.zeros(1)})


@pytest.fixture(scope="module")
def swapping_checkpoint(tmp_path_factory):
    generator, encoder = state_dict("Generator_globalatt_return_32"), state_dict("Encoder_return_32")
    content = {
        "generator": {key: value[:0] for key, value in generator.items()},  # not the averaged weights
        "g_ema": generator,
        "encoder": {key: value[:0] for key, value in encoder.items()},
        "e_ema": encoder,
        "e_ema_p": {"down0.0.weight": torch.zeros(64, 3, 4, 4)},
        "discriminator": {"final_linear.1.bias": torch.zeros(1)},
        "train_args": argparse.Namespace(lr=0.001, batch=8),
    }
    path = tmp_path_factory.mktemp("released") / "swap.pt"
    torch.save(content, path)
    return path


def test_import_prefers_averaged_weights_and_reports(swapping_checkpoint):
    model, report = import_checkpoint(swapping_checkpoint)
    assert report.task == "swapping"
    assert report.used == {"g_ema": "Generator_globalatt_return_32", "e_ema": "Encoder_return_32"}
    assert {"generator", "encoder", "e_ema_p", "discriminator", "train_args"} == set(report.ignored)
    assert len(report.dropped) == 2 and all("style_mix.top" in name for name in report.dropped)
    text = str(report)
    assert "g_ema" in text and "style_mix.top.0.weight" in text and "discriminator" in text
    assert model.identity_transfer.alpha.item() == 0.5
    assert report.parameters == 9_718_912 + 44_641_668 - 512 * 1024 - 512  # minus the dead layer


def test_files_that_are_not_released_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        import_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="no checkpoint"):
        import_checkpoint(tmp_path / "text.pt")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"expected g_ema or generator"):
        import_checkpoint(tmp_path / "other.pt")
    torch.save({"g_ema": state_dict("Encoder_32"), "e_ema": {}}, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match="Generator_32"):
        import_checkpoint(tmp_path / "wrong.pt")
    torch.save({"g_ema": {"decoder.input.input": torch.zeros(1, 512, 32, 32)}}, tmp_path / "half.pt")
    with pytest.raises(ValueError, match="Encoder_32"):
        import_checkpoint(tmp_path / "half.pt")


class Intruder:
    def __reduce__(self):
        return (print, ("executed by the unpickler",))


def test_foreign_objects_are_not_unpickled(tmp_path, capsys):
    torch.save({"g_ema": Intruder()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="tensors and options alone"):
        import_checkpoint(tmp_path / "bad.pt")
    assert "executed" not in capsys.readouterr().out
