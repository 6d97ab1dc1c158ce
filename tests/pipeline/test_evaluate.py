"""Stage `evaluate`: which pairs, what the controls catch, what is named what, and the same reports every time."""

import csv
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import torchvision
from tiny_nets import write_nets

from pipeline import evaluate, schemas
from pipeline.common.files import weights_digest
from pipeline.common.places import Places
from pipeline.common.sheets import LABEL, sheet
from pipeline.params import load
from pipeline.scoring import decoys as scoring_decoys
from pipeline.scoring import held_out, reports
from pipeline.scoring.decoys import looks_right
from pipeline.scoring.held_out import Pairs, clip_pairs, exact, others, portrait_pairs
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tables import read_table
from uniface import explain
from uniface.config import TASKS, ModelConfig
from uniface.data import CorruptMedia
from uniface.images import read_image
from uniface.model import UniFace

SIZE = 32
EXAMS = ("reconstruction", "reenactment", "swapping")
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    return write_nets(tmp_path_factory.mktemp("weights") / "weights")


@pytest.fixture(scope="module")
def scorer(nets):
    return Scorer(nets, 3, CPU)


@pytest.fixture(scope="module")
def params():
    p = load(ROOT / "params.yaml")
    sample = replace(
        p.sample, persons=4, test_persons=2, seconds=3.0, portraits=8, portrait_identities=4, test_identities=2
    )
    return replace(
        p,
        image_size=SIZE,
        sample=sample,
        download=replace(p.download, source="folder"),
        pairs=replace(p.pairs, source="folder"),
        evaluate=replace(p.evaluate, pairs=5, batch_size=2, grid_rows=2),
    )


def _picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def _pairs(n: int = 6, truth: bool = True) -> Pairs:
    """Sources and targets of n identities; the exact answer is the target with the source's middle."""
    source = np.stack([_picture(i) for i in range(n)])
    target = np.stack([_picture(100 + i) for i in range(n)])
    answer = target.copy()
    answer[:, 8:24, 8:24] = source[:, 8:24, 8:24]
    who, whom = (tuple(f"{kind}{i}" for i in range(n)) for kind in "st")
    return Pairs(source, target, who, whom, who, whom, source.copy(), answer if truth else None)


def _paste(source, target):
    """A perfect model of that world."""
    answer = target.copy()
    answer[:, 8:24, 8:24] = source[:, 8:24, 8:24]
    return answer


class Clips:
    """ClipDataset's face: clip i is of person i // 2; its frames are flat, red the clip and green the frame."""

    def __init__(self, count=6, broken=()):
        self.count, self.broken = count, broken
        self.lengths = np.full(count, 10)

    def __len__(self):
        return self.count

    def column(self, name):
        return [f"{name}{i // 2}" for i in range(self.count)]

    def row(self, i):
        return {"person_id": f"person_id{i // 2}", "video_id": f"v{i}", "utterance": "u", "chunk": 0, "start": 100 * i,
                "box": [0.0, 1.0, 2.0, float(i)]}  # fmt: skip

    def frames(self, i, indices):
        if i in self.broken:
            raise CorruptMedia(f"clip {i}")
        return np.stack([np.full((4, 4, 3), (i, k, 0), np.uint8) for k in indices])

    def frame(self, i, k):
        return self.frames(i, [k])[0]


def test_clip_pairs_are_of_one_clip_or_of_two_persons_and_know_where_they_come_from(capsys):
    for cross in (False, True):
        pairs, jobs = clip_pairs(Clips(broken=(3,)), 40, seed=1, cross=cross)
        assert len(pairs) == len(jobs) == 40
        for k, job in enumerate(jobs):
            (i, a), (j, b) = (image[0, 0, :2].tolist() for image in (pairs.source[k], pairs.target[k]))
            assert job == ((f"v{i}", 100 * i + a, (0, 1, 2, i)), (f"v{j}", 100 * j + b, (0, 1, 2, j)))
            assert 3 not in (i, j)
            assert (i // 2 != j // 2) if cross else (i == j and a != b)
            assert pairs.source_identity[k] == f"person_id{i // 2}"
            assert pairs.mean_frame[k, 0, 0].tolist() == [i, 4, 0]  # of 0..9, rounded to even
        assert "unreadable clip: clip 3" in capsys.readouterr().out
        again = clip_pairs(Clips(broken=(3,)), 40, seed=1, cross=cross)[1]
        assert jobs == again != clip_pairs(Clips(broken=(3,)), 40, seed=2, cross=cross)[1]


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


def test_exact_truth_is_rendered_in_parallel_once(params, tmp_path, monkeypatch):
    from pipeline.sample import truth
    from pipeline.sample.world import World

    world = World(params.sample, params.seed)
    video, other = (v for v in world.videos if v.split == "test")
    box = (20.0, 20.0, 180.0, 180.0)
    jobs = [((video.video_id, 3, box), (video.video_id, 3, box)), ((video.video_id, 3, box), (other.video_id, 9, box))]
    images = exact("reenactment", jobs, params, tmp_path)
    assert images.shape == (2, SIZE, SIZE, 3)
    assert np.array_equal(images[1], truth.reenacted(world, *jobs[1], SIZE))
    monkeypatch.setattr(held_out, "ProcessPoolExecutor", None)
    assert np.array_equal(exact("reenactment", jobs, params, tmp_path), images)  # from the file
    with pytest.raises(TypeError):
        exact("reenactment", jobs, replace(params, seed=7), tmp_path)  # another world: not from the file


def test_only_a_picture_of_the_right_thing_is_nearer_to_the_answer_than_to_decoys():
    pairs = _pairs()
    wrong = np.stack([pairs.truth[:4]] * 3, axis=1)  # the last two pairs have none
    for k in range(3):
        wrong[:, k, 8:24, 8:24] = np.stack([_picture(200 + 10 * k + i) for i in range(4)])[:, 8:24, 8:24]
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
    found = scoring_decoys.decoys("reenactment", jobs, params, tmp_path)
    assert {name: wrong.shape for name, wrong in found.items()} == dict.fromkeys(
        ("right_face", "right_expression", "right_pose"), (2, 4, SIZE, SIZE, 3)
    )
    ids = [portrait.image_id for portrait in world.portraits if portrait.split == "test"]
    assert list(scoring_decoys.decoys("swapping", [(ids[0], ids[1])], params, tmp_path)) == ["right_face"]


def test_a_perfect_swap_passes_every_control(scorer):
    numbers, baselines, controls, made, *_ = evaluate.measure("swapping", _paste, _pairs(), scorer)
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
    numbers, baselines, controls, *_ = evaluate.measure("swapping", lambda source, target: target, _pairs(), scorer)
    assert controls["shuffled_source"]["psnr_drop"] == 0
    assert controls["wrong_source"] == {"right_beats_wrong": 0, "psnr_face_gain": 0, "right_beats_wrong_by_judge": 0}
    assert numbers == {name: baselines["copy_target"][name] for name in numbers}
    _, _, controls, *_ = evaluate.measure("reenactment", lambda source, target: source, _pairs(), scorer)
    assert controls["shuffled_driver"]["psnr_drop"] == 0 < controls["shuffled_source"]["psnr_drop"]


def test_a_model_that_paints_the_drivers_look_is_caught(scorer):
    numbers, _, controls, *_ = evaluate.measure("reenactment", lambda source, driver: driver, _pairs(), scorer)
    assert controls["truth_as_driver"]["psnr"] == pytest.approx(80, abs=0.01) and numbers["psnr"] < 30


def test_without_truth_there_are_no_numbers_that_need_it(scorer):
    numbers, baselines, controls, *_ = evaluate.measure("swapping", _paste, _pairs(truth=False), scorer)
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
    scorer, pairs = Scorer(nets, 3, CPU), _pairs()
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
    scorer, pairs = Scorer(folder, 3, CPU), _pairs()
    assert "perceptual_efficientnet_lite0" in scorer.compare(pairs.source, pairs.truth)
    assert scorer.frechet == "frechet_perceptual_efficientnet_lite0"
    plain = Scorer(nets, 3, CPU).know(pairs.source)
    assert not torch.allclose(scorer.know(pairs.source).judge, plain.judge)  # the centre is subtracted


def test_stand_ins_never_give_a_number_the_papers_name(scorer):
    numbers = evaluate.measure("reenactment", _paste, _pairs(), scorer)[0]
    assert not {"fid", "lpips"} & set(numbers)
    networks = scorer.networks()
    assert all(entry["stand_in"] and entry["network"].startswith("tiny ") for entry in networks.values())
    assert set(numbers) - {"psnr", "ssim", "above_mean_frame"} == set(networks)
    assert networks["ape"]["coefficients"] == ["yaw", "pitch", "roll"]
    assert networks["aee"]["coefficients"] == ["mouth"]  # blink's R2 is .3, and tx is neither pose nor expression


def test_real_networks_give_lpips_its_name_and_value(nets, tmp_path):
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
    scorer, pairs = Scorer(folder, 2, CPU), _pairs(2)
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


@pytest.fixture(scope="module")
def project(tmp_path_factory, nets):
    """Test clips of three persons, test portraits of three identities, two random models, tiny networks."""
    folder = tmp_path_factory.mktemp("project")
    rows, index = [], []
    for n in range(3):
        path = folder / f"{n}.mp4"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=25, options={"crf": "10"})
            stream.width = stream.height = SIZE
            stream.pix_fmt = "yuv420p"
            for k in range(6):
                frame = np.roll(_picture(n), 2 * k, axis=1)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            file.mux(stream.encode())
        row = {
            "person_id": f"id{n}",
            "video_id": f"video{n}",
            "utterance": "00001",
            "chunk": 0,
            "start": 10,
            "end": 16,
            "box": [0.0, 0.0, 32.0, 32.0],
            "width": 64,
            "height": 48,
            "fps": 25.0,
            "frames": 6,
        }
        rows.append(row | {"video": path.read_bytes()})
        kept = {
            "split": "test",
            "status": "kept",
            "reason": None,
            "fit": None,
            "bad_lines": 0,
            "shard": "test-00000.parquet",
            "row": n,
        }
        index.append(row | kept)
    schemas.write(folder / "data/clips/test-00000.parquet", rows, schemas.CLIPS)
    schemas.write(folder / "data/clips/index.parquet", index, schemas.CLIP_INDEX)
    images = []
    for i in range(6):
        png = cv2.imencode(".png", _picture(i))[1].tobytes()
        images.append({"image_id": str(i), "identity": str(i // 2), "split": "test", "image": png})
    schemas.write(folder / "data/pairs/images-00000.parquet", images, schemas.IMAGES)
    table = [
        {"source_id": str(i), "target_id": str((i + step) % 6), "same": step == 0}
        for i in range(6)
        for step in (0, 2, 3, 4, 2)
    ]
    schemas.write(folder / "data/pairs/test.parquet", table, schemas.PAIRS)
    for name, seed in (("reenactment", 0), ("swapping", 1)):
        torch.manual_seed(seed)
        config = ModelConfig(image_size=SIZE, feature_stride=4, max_channels=16, channel_base=256, skip_strides=(4,))
        UniFace(config).save(folder / f"models/{name}.safetensors")
    return folder


def test_the_whole_stage_writes_the_same_reports_again(project, nets, params, tmp_path):
    places = Places(project)
    shutil.copytree(nets, places.nets)
    models = {task: places.model(task) for task in TASKS}
    report = evaluate.examine(models, tmp_path / "a", params, places)
    assert evaluate.evaluate(params, places) == report
    shutil.copytree(places.reports, tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    pictures = {f"samples/{name}.png" for name in ("attention", "fdf", *EXAMS, *(f"{exam}_extremes" for exam in EXAMS))}
    tables = {"baselines.csv", "headlines.json", "intervals.csv", "metrics.json", "vs_paper.csv"}
    pairwise = {f"{folder}/{exam}.csv" for folder in ("pairs", "rows") for exam in EXAMS}
    assert {str(path) for path in files} == tables | pictures | pairwise
    page = (tmp_path / "b/index.html").read_text()
    assert page.count("data:image/webp") == len(pictures)
    lines = list(csv.DictReader((tmp_path / "a/intervals.csv").open()))
    (line,) = [x for x in lines if (x["exam"], x["picture"], x["metric"]) == ("swapping", "model", "csim")]
    assert float(line["value"]) == pytest.approx(report["swapping"]["csim"], abs=1e-5)
    assert [float(line["low"]), float(line["high"])] == report["intervals"]["swapping"]["csim"]
    assert read_table(tmp_path / "a", "swapping").rows.keys() == {
        x["picture"] for x in lines if x["exam"] == "swapping"
    }
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
    assert json.loads((tmp_path / "a/metrics.json").read_text()) == report
    shown = json.loads((tmp_path / "a/headlines.json").read_text())
    assert shown["reconstruction"]["psnr"] == report["reconstruction"]["psnr"] and "psnr" not in shown["reenactment"]
    assert all(type(value) is float for exam in shown.values() for value in exam.values())
    beside = {row["picture"]: row for row in csv.DictReader((tmp_path / "a/baselines.csv").open())}
    assert float(beside["swapping: the model"]["csim"]) == report["swapping"]["csim"]
    assert {"reconstruction: mean frame", "swapping: shuffled driver"} < set(beside)
    assert report["pairs"] == dict.fromkeys(("reconstruction", "reenactment", "swapping"), 5)
    assert report["weights"] == {task: weights_digest(path) for task, path in models.items()}
    assert report["models"] == {"reconstruction": "stage 1", "reenactment": "stage 1", "swapping": "stage 2"}
    assert "psnr" in report["reconstruction"] and "psnr" not in report["reenactment"]  # no exact truth for a folder
    assert set(report["baselines"]["reenactment"]) == {
        "copy_source", "blurred_source", "copy_target", "blurred_target", "mean_frame"
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "a/vs_paper.csv").open()))
    rows = [row for row in rows if row["method"] == "UniFace"]
    fid = next(row for row in rows if row["metric"] == "fid" and row["task"] == "reenactment")
    assert fid["ours"] == "" and fid["paper"] == "54.34" and fid["comparable"] == "no"
    assert fid["why"].startswith("not measured: Inception v3 is not there")
    csim = next(row for row in rows if row["metric"] == "csim" and row["task"] == "reenactment")
    assert float(csim["ours"]) == report["reenactment"]["csim"] and csim["comparable"] == "no"
    assert csim["why"] == "stand-in network (tiny judge); 32 px, not 256"
    picture = read_image(tmp_path / "a/samples/swapping.png")
    assert picture.shape == (2 * 130 - 2 + LABEL, 5 * 130 - 2, 3)  # source, target, output, two wrong ones


def test_listed_pairs_are_evaluated_instead_of_the_drawn_ones(project, nets, params, tmp_path):
    places = Places(shutil.copytree(project, tmp_path / "listed"))
    shutil.copytree(nets, places.nets, dirs_exist_ok=True)
    listed = [("0", "2"), ("1", "4"), ("5", "0")]
    rows = [{"source_id": source, "target_id": target, "same": False} for source, target in listed]
    schemas.write(places.pairs / "evaluation.parquet", rows, schemas.PAIRS)
    assert evaluate.evaluate(params, places)["pairs"] == {"reconstruction": 5, "reenactment": 5, "swapping": 3}
    schemas.write(places.pairs / "evaluation.parquet", rows[:1], schemas.PAIRS)
    with pytest.raises(ValueError, match=r"evaluation\.parquet holds only 1"):
        evaluate.evaluate(params, places)


def test_headlines_are_few_numbers_and_the_gains_where_there_is_truth():
    shown = {"psnr": 22.0, "above_mean_frame": 1.5, "right_face": 0.6, "csim": 0.5, "csim_target": 0.1, "ape": 3.0}
    metrics, exams = shown | {"ssim": 0.6}, ("reconstruction", "reenactment", "swapping")
    report = {exam: metrics for exam in exams} | {"networks": {"csim": {"network": "judge"}}}
    report |= {name: {exam: {} for exam in exams} for name in ("exams", "controls")}
    report["controls"]["swapping"] = {"wrong_source": {"right_beats_wrong": 0.7, "psnr_face_gain": 0.3}}
    found = reports.headlines(report)
    assert found["reenactment"] == shown
    assert found["swapping"] == shown | {"right_beats_wrong": 0.7}


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
