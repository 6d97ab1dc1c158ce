"""Frozen networks: files in, differentiable float32 modules out; wrong files say why."""

import json
import pickle
import warnings

import pytest
import torch
from torch import nn

from uniface import backbones


class _Recogniser(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.PReLU(6), nn.Conv2d(6, 6, 3, 4, 1))
        self.head = nn.Linear(6 * 14 * 14, 16)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class _Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)

    def forward(self, x):
        fine = torch.relu(self.first(x))
        return fine, torch.relu(self.second(fine))


def _export(net, path, size, outputs, names=None, any_size=False):
    import onnx

    torch.manual_seed(0)
    axes = {0: "b", 2: "h", 3: "w"} if any_size else {0: "b"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            torch.rand(1, 3, size, size),
            str(path),
            dynamo=False,
            opset_version=13,
            input_names=["input"],
            output_names=outputs,
            dynamic_axes={"input": axes} | {name: axes if any_size else {0: "b"} for name in outputs},
        )
    if names:
        model = onnx.load(path)
        entry = model.metadata_props.add()
        entry.key, entry.value = "names", json.dumps(names)
        onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    torch.manual_seed(1)
    net = _Recogniser()
    return net, _export(net, tmp_path_factory.mktemp("r") / "r.onnx", 112, ["embedding"])


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_recogniser_is_frozen_differentiable_and_float32_under_autocast(recogniser, images):
    net, path = recogniser
    loaded = backbones.load_recogniser(path)
    nn.Sequential(loaded).train()
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    expected = nn.functional.normalize(net.eval()(backbones.recogniser_input(images)), dim=1)
    images.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = loaded(images)
        half = loaded(images.bfloat16())
    assert found.dtype == half.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    found.sum().backward()
    assert images.grad.abs().sum() > 0


def test_recogniser_crop_is_the_released_one():
    image = torch.zeros(1, 3, 256, 256)
    image[..., 35:223, 32:220] = 1
    assert backbones.recogniser_input(image).eq(1).all()
    for index in ((..., 34, slice(None)), (..., 223, slice(None)), (..., slice(None), 31), (..., slice(None), 220)):
        image[index] = float("nan")  # just outside: never read
    assert backbones.recogniser_input(image).eq(1).all()
    ramp = torch.linspace(-1, 1, 256).expand(1, 3, 256, 256)
    small = nn.functional.avg_pool2d(ramp, 4)
    middle = slice(8, -8)
    large_crop, small_crop = (backbones.recogniser_input(x)[..., middle] for x in (ramp, small))
    assert (large_crop - small_crop).abs().max() < 0.02  # 64 px sees what 256 px sees


def test_perceptual_maps_of_onnx_follow_the_network_at_any_size(tmp_path, images):
    net = _Maps()
    loaded = backbones.load_perceptual(_export(net, tmp_path / "p.onnx", 32, ["fine", "coarse"], any_size=True))
    for size in (32, 64):
        found = loaded(images[..., :size, :size])
        assert len(found) == backbones.count_maps(tmp_path / "p.onnx")
        for one, other in zip(found, net(images[..., :size, :size]), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="layers and normalisation are fixed"):
        backbones.load_perceptual(tmp_path / "p.onnx", normalise=True)


def _vgg(kind):
    import torchvision

    with torch.device("meta"):  # making 140 M random numbers takes seconds
        features = getattr(torchvision.models, kind)(weights=None).features
    return features


def test_vgg16_gives_lpips_own_maps_from_a_local_file(tmp_path, images):
    from lpips.lpips import ScalingLayer

    vgg = _vgg("vgg16").to_empty(device="cpu")
    torch.manual_seed(3)
    for parameter in vgg.parameters():
        nn.init.normal_(parameter, std=0.03)
    torch.save({f"features.{name}": value for name, value in vgg.state_dict().items()}, tmp_path / "vgg16-1.pth")
    found = backbones.load_perceptual(tmp_path / "vgg16-1.pth")(images[:1])
    assert [m.shape[1] for m in found] == [64, 128, 256, 512, 512]
    assert backbones.count_maps(tmp_path / "vgg16-1.pth") == 5
    x = ScalingLayer()(images[:1])
    for first, last, one in zip((0, 4, 9, 16, 23), (4, 9, 16, 23, 30), found, strict=True):  # LPIPS's five slices
        x = vgg[first:last](x)
        torch.testing.assert_close(one, x, atol=1e-4, rtol=1e-3)
    plain = backbones.load_perceptual(tmp_path / "vgg16-1.pth", layers=("relu1_2",), normalise=False)
    torch.testing.assert_close(plain(images[:1])[0], vgg[:4](images[:1]))
    with pytest.raises(ValueError, match="not relu9_9"):
        backbones.load_perceptual(tmp_path / "vgg16-1.pth", layers=("relu9_9",))


@pytest.mark.parametrize("kind", ["vgg16", "vgg19"])
def test_vgg_layers_are_the_relus_of_their_names(kind):
    block, conv, names = 1, 0, {}
    for index, module in enumerate(_vgg(kind)):
        conv += isinstance(module, nn.Conv2d)
        if isinstance(module, nn.ReLU):
            names[f"relu{block}_{conv}"] = index
        if isinstance(module, nn.MaxPool2d):
            block, conv = block + 1, 0
    assert backbones.VGG_LAYERS[kind] == {name: names[name] for name in backbones.VGG_LAYERS[kind]}


def test_lpips_weights_come_from_the_package():
    from importlib.util import find_spec
    from pathlib import Path

    folder = Path(find_spec("lpips").submodule_search_locations[0])
    found = backbones.load_lpips_weights(folder / "weights/v0.1/vgg.pth")
    assert [tuple(w.shape) for w in found] == [(1, c, 1, 1) for c in (64, 128, 256, 512, 512)]
    assert all((w >= 0).all() for w in found)


def test_regressor_knows_the_names_of_its_outputs(tmp_path, images):
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path = _export(net, tmp_path / "g.onnx", 48, ["coefficients"], names=["yaw", "pitch", "mouth"])
    loaded = backbones.load_regressor(path)
    assert loaded.names == ("yaw", "pitch", "mouth") and loaded.size == 48
    assert loaded(images).shape == (3, 3)
    nameless = _export(net, tmp_path / "n.onnx", 48, ["coefficients"])
    with pytest.raises(ValueError, match="no `names`"):
        backbones.load_regressor(nameless)


def test_inception_takes_local_weights_and_no_pickles(tmp_path, images, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with monkeypatch.context() as patch:  # built once without weights, to have a file of the right names and shapes
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr(nn.init, "kaiming_uniform_", lambda tensor, **_: tensor.data.normal_(std=0.02))
        torch.save({}, tmp_path / "empty.pth")
        net = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(tmp_path / "empty.pth"))
    torch.save(net.state_dict(), tmp_path / "inception.pth")
    loaded = backbones.load_inception(tmp_path / "inception.pth")
    levels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 64, 64)
    torch.testing.assert_close(loaded(levels / 127.5 - 1), net.eval()(levels)[0])
    torch.save({"evil": print}, tmp_path / "evil.pth")
    with pytest.raises(pickle.UnpicklingError):
        backbones.load_inception(tmp_path / "evil.pth")


def test_wrong_files_and_images_are_refused(tmp_path, recogniser):
    with pytest.raises(FileNotFoundError, match="run the stage `weights` first"):
        backbones.load_recogniser(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 10)
    with pytest.raises(ValueError, match=r"junk\.onnx"):
        backbones.load_recogniser(tmp_path / "junk.onnx")
    with pytest.raises(ValueError, match="neither an ONNX file"):
        backbones.load_perceptual(_touch(tmp_path / "resnet.pth"))
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "vgg19-x.pth")
    with pytest.raises(ValueError, match="not torchvision's vgg19"):
        backbones.load_perceptual(tmp_path / "vgg19-x.pth")
    with pytest.raises(ValueError, match="not 112 x 112"):
        net = _export(_Maps(), tmp_path / "m.onnx", 32, ["a", "b"], any_size=True)
        backbones.load_recogniser(net)
    with pytest.raises(ValueError, match=r"got \(3, 64, 64\)"):
        backbones.load_recogniser(recogniser[1])(torch.zeros(3, 64, 64))


def _touch(path):
    path.touch()
    return path


def test_what_onnx2torch_warns_of_is_not_passed_on_and_the_rest_is(tmp_path, monkeypatch):
    import onnx2torch

    monkeypatch.setattr(onnx2torch, "convert", lambda path: None)
    (tmp_path / "net.onnx").touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backbones._from_onnx(tmp_path / "net.onnx")
        for module in ("onnx2torch.node_converters.slice", "uniface.losses"):
            warnings.warn_explicit("a non-tuple sequence", UserWarning, "file.py", 63, module=module)
    assert len(caught) == 1
