"""What is measured of a set of pictures: what the controls catch, what is named what, whom the judge sees."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from made_pairs import made_pairs, paste
from tiny_nets import write_nets

from pipeline import evaluate
from pipeline.scoring.scorer import Scorer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    return write_nets(tmp_path_factory.mktemp("weights") / "weights")


@pytest.fixture(scope="module")
def scorer(nets):
    return Scorer(nets, 3, CPU)


def test_a_perfect_swap_passes_every_control(scorer):
    numbers, baselines, controls, made, *_ = evaluate.measure("swapping", paste, made_pairs(), scorer)
    assert numbers["psnr"] == numbers["psnr_face"] == pytest.approx(80, abs=0.01)
    assert numbers["ssim"] == pytest.approx(1, abs=1e-4)
    assert numbers["perceptual_stand_in"] == pytest.approx(0, abs=1e-6)
    assert controls["wrong_source"]["right_beats_wrong"] == 1 and controls["wrong_source"]["psnr_face_gain"] > 20
    assert controls["shuffled_source"]["psnr_drop"] > 20 and controls["shuffled_driver"]["psnr_drop"] > 20
    assert controls["self"]["psnr"] == pytest.approx(80, abs=0.01)
    assert numbers["above_mean_frame"] == pytest.approx(80 - baselines["mean_frame"]["psnr"], abs=0.01)
    assert baselines["mean_frame"]["above_mean_frame"] == 0 and "right_face" not in numbers  # no decoys
    assert baselines["exact_truth"] == {name: numbers[name] for name in baselines["exact_truth"]}
    assert baselines["copy_target"]["psnr_face"] < 30 < baselines["copy_target"]["psnr"] + 30
    assert baselines["copy_target"]["csim_target"] == pytest.approx(1, abs=1e-4)
    assert baselines["copy_source"]["csim"] == pytest.approx(1, abs=1e-4)
    assert baselines["copy_source"]["id_retrieval"] == 1
    assert set(made) == {"right", "wrong source", "wrong driver"}


def test_a_model_that_ignores_the_source_is_caught(scorer):
    numbers, baselines, controls, *_ = evaluate.measure("swapping", lambda source, target: target, made_pairs(), scorer)
    assert controls["shuffled_source"]["psnr_drop"] == 0
    assert controls["wrong_source"] == {"right_beats_wrong": 0, "psnr_face_gain": 0, "right_beats_wrong_by_judge": 0}
    assert numbers == {name: baselines["copy_target"][name] for name in numbers}
    _, _, controls, *_ = evaluate.measure("reenactment", lambda source, target: source, made_pairs(), scorer)
    assert controls["shuffled_driver"]["psnr_drop"] == 0 < controls["shuffled_source"]["psnr_drop"]


def test_a_model_that_paints_the_drivers_look_is_caught(scorer):
    numbers, _, controls, *_ = evaluate.measure("reenactment", lambda source, driver: driver, made_pairs(), scorer)
    assert controls["truth_as_driver"]["psnr"] == pytest.approx(80, abs=0.01) and numbers["psnr"] < 30


def test_without_truth_there_are_no_numbers_that_need_it(scorer):
    numbers, baselines, controls, *_ = evaluate.measure("swapping", paste, made_pairs(truth=False), scorer)
    assert not {"psnr", "ssim", "psnr_face", "perceptual_stand_in"} & set(numbers)
    assert "exact_truth" not in baselines and "judge_check" not in controls
    assert list(controls["wrong_source"]) == ["right_beats_wrong_by_judge"]
    assert "psnr_drop" not in controls["shuffled_source"] and controls["self"]["psnr"] > 79


def test_the_judge_is_believed_only_if_it_sees_the_source_in_exact_swaps():
    row = {"csim": torch.tensor([0.9, 0.8, 0.9]), "csim_target": torch.tensor([0.1, 0.2, 0.3])}
    row |= {f"{name}_fixed_crop": values.clone() for name, values in row.items()}
    seen = {"margin": pytest.approx(0.66667), "right_share": 1, "passed": True}
    assert evaluate._judge_check(row) == seen | {"fixed_crop": seen}
    row["csim"][0] = 0.0
    check = evaluate._judge_check(row)
    assert not check["passed"] and check["fixed_crop"]["passed"]


def test_an_output_without_a_face_is_like_nobody_and_counted(nets, monkeypatch):
    scorer, pairs = Scorer(nets, 3, CPU), made_pairs()
    source = scorer.know(pairs.source)
    seen = scorer.judged(source, source, source, pairs)
    assert seen["no_face"].sum() == 0 and seen["csim"].min() > 0.999
    find = scorer.align._faces.detect
    dark = lambda picture: [] if picture.max() == 0 else find(picture)  # noqa: E731
    monkeypatch.setattr(scorer.align._faces, "detect", dark)
    pictures = pairs.source.copy()
    pictures[0] = 0
    row = scorer.judged(scorer.know(pictures), source, source, pairs)
    assert row["no_face"].tolist() == [1.0] + [0.0] * (len(pictures) - 1)
    assert row["csim"][0] == row["csim_target"][0] == row["id_retrieval"][0] == 0 and row["csim"][1] > 0.999
    assert row["csim_fixed_crop"][0] != 0


def test_distances_are_called_by_the_net_that_gave_them(nets, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(nets, folder)
    manifest = json.loads((folder / "weights.json").read_text())
    manifest["perceptual"] |= {"stand_in": False, "source": "packages", "metric": "efficientnet_lite0"}
    manifest["judge"]["centre"] = [0.1] * 16
    (folder / "weights.json").write_text(json.dumps(manifest))
    scorer, pairs = Scorer(folder, 3, CPU), made_pairs()
    assert "perceptual_efficientnet_lite0" in scorer.compare(pairs.source, pairs.truth)
    assert scorer.frechet == "frechet_perceptual_efficientnet_lite0"
    plain = Scorer(nets, 3, CPU).know(pairs.source)
    assert not torch.allclose(scorer.know(pairs.source).judge, plain.judge)  # the centre is subtracted


def test_stand_ins_never_give_a_number_the_papers_name(scorer):
    numbers = evaluate.measure("reenactment", paste, made_pairs(), scorer)[0]
    assert not {"fid", "lpips"} & set(numbers)
    networks = scorer.networks()
    assert all(entry["stand_in"] and entry["network"].startswith("tiny ") for entry in networks.values())
    assert set(numbers) - {"psnr", "ssim", "above_mean_frame"} == set(networks)
    assert networks["ape"]["coefficients"] == ["yaw", "pitch", "roll"]
    assert networks["aee"]["coefficients"] == ["mouth"]  # blink's R2 is .3, and tx is neither pose nor expression


def test_real_networks_give_lpips_its_name_and_value(nets, tmp_path):
    import torchvision
    from lpips.lpips import LPIPS

    folder = tmp_path / "weights"
    shutil.copytree(nets, folder)
    with torch.device("meta"):
        vgg = torchvision.models.vgg16(weights=None).features
    vgg = vgg.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in vgg.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    torch.save({f"features.{name}": value for name, value in vgg.state_dict().items()}, folder / "vgg16.pth")
    lin = Path(find_spec("lpips").submodule_search_locations[0]) / "weights/v0.1/vgg.pth"
    shutil.copy(lin, folder / "lpips_vgg.pth")
    manifest = json.loads((folder / "weights.json").read_text())
    manifest["perceptual"] |= {"file": "vgg16.pth", "name": "VGG16", "source": "internet", "stand_in": False}
    manifest["lpips"] = manifest["perceptual"] | {"file": "lpips_vgg.pth"}
    del manifest["regressor"]
    (folder / "weights.json").write_text(json.dumps(manifest))
    scorer, pairs = Scorer(folder, 2, CPU), made_pairs(2)
    found = scorer.compare(pairs.source, pairs.truth)["lpips"].mean()
    with torch.device("meta"):
        skeleton = torchvision.models.vgg16(weights=None).features
    with pytest.MonkeyPatch.context() as patch:  # LPIPS would first make a VGG16 of its own, in seconds
        patch.setattr(torchvision.models, "vgg16", lambda **_: type("V", (), {"features": vgg})())
        reference = LPIPS(net="vgg", pnet_rand=True, model_path=str(lin), verbose=False)
    both = [torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (pairs.source, pairs.truth)]
    assert found == pytest.approx(reference(*both).mean().item(), rel=1e-4)
    assert len(skeleton) == len(vgg)
    assert scorer.networks()["lpips"] == {"network": "VGG16", "stand_in": False, "source": "internet"}
    assert "ape" not in scorer.networks()
