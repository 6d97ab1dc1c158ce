"""params.yaml: read as DVC reads it, strict, typed, with dotted names in errors; both profiles have the same keys."""

import datetime
import functools
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import params

ROOT = Path(__file__).resolve().parents[2]


def keys(values: dict, prefix: str = "") -> set[str]:
    return {
        name
        for key, value in values.items()
        for name in (keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key})
    }


@pytest.fixture
def values():
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def write(values, tmp_path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def load(values, tmp_path):
    return params.load(write(values, tmp_path))


def test_both_profiles_load_and_have_the_same_keys(values):
    paper = yaml.safe_load((ROOT / "params.paper.yaml").read_text())
    for one in (values, paper):
        one["evaluate"]["exams"] = sorted(one["evaluate"]["exams"])  # the names; what each is, is the user's to say
    assert keys(values) == keys(paper) and values["evaluate"]["exams"] == paper["evaluate"]["exams"]
    params.load(ROOT / "params.yaml")
    params.load(ROOT / "params.paper.yaml")


def test_paper_profile_has_the_papers_numbers():
    """Sec. 4.1."""
    paper = params.load(ROOT / "params.paper.yaml")
    assert paper.image_size == 256
    for stage in (paper.train_reenactment, paper.train_swapping):
        assert (stage.iterations, stage.batch_size, stage.lr) == (500_000, 8, 1e-4)
        assert stage.betas == (0.0, 0.99)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("crop", "gap", 3, "crop.gap: unknown key"),
        ("train_swapping", "batch_size", "eight", "train_swapping.batch_size: "),
        ("train_swapping", "batch_size", 8.5, "train_swapping.batch_size: "),
        ("weights", "source", "ftp", "weights.source: "),
    ],
)
def test_wrong_key_is_named(values, tmp_path, section, key, value, message):
    values[section][key] = value
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        load(values, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1), ("seed", 2**64), ("image_size", -64), ("image_size", 0), ("image_size", 33), ("image_size", 1024),
        ("sample.persons", 0), ("sample.persons", -3), ("sample.test_persons", 126), ("sample.test_persons", 200),
        ("sample.test_identities", 1500), ("sample.portrait_identities", 3001), ("sample.scale", 0),
        ("sample.seconds", -1), ("sample.seconds", 0), ("sample.seconds", float("nan")), ("sample.video_height", 1),
        ("crop.crf", 99), ("crop.crf", -1), ("crop.gop", 0), ("crop.clips_per_shard", 0), ("crop.min_frames", 0),
        ("crop.min_frames", 2000), ("crop.iou_with_initial", 1.5), ("crop.increase", -1), ("crop.max_gap", -1),
        ("pairs.images_per_shard", 0), ("pairs.pairs_per_image", 0), ("pairs.pairs_per_image", 7), ("pairs.path", ""),
        ("pairs.test_images", 0), ("pairs.level", -1), ("pairs.pattern", ""),
        ("train_reenactment.batch_size", 0), ("train_reenactment.log_every", 0), ("train_swapping.iterations", 0),
        ("train_swapping.checkpoint_every", 15), ("train_swapping.lr", -1.0), ("train_swapping.lr", float("inf")),
        ("train_swapping.contextual_maps", [-1]), ("train_swapping.contextual_maps", []),
        ("train_swapping.betas", [0.5]), ("train_reenactment.ema", 2.0), ("train_reenactment.accumulate", 0),
        ("compute.workers", 0), ("compute.cpus_per_worker", 0), ("compute.loader_workers", -1),
        ("compute.gpus_per_worker", -2), ("compute.crop_workers", -1),
        ("evaluate.pairs", -1), ("evaluate.pairs", 0), ("evaluate.batch_size", 0), ("evaluate.grid_rows", 0),
        ("register.name", ""), ("register.name", "a/b"), ("register.name", "a:b"), ("register.name", 7),
        ("download.url", "https://www.youtube.com/watch?v="), ("download.cookies", "nowhere.txt"),
        ("download.parallel", 0), ("download.attempts", 0), ("download.pause", -1.0), ("download.max_videos", -1),
        ("download.folder", "~/videos"), ("download.annotations", "~/txt"), ("pairs.path", "~/pictures"),
        ("evaluate.exams", {}), ("evaluate.exams.swapping.task", "swap"), ("evaluate.exams.swapping.pairs", "potraits"),
        ("evaluate.exams.networks", {"task": "swapping", "model": "swapping", "pairs": "portraits"}),
        ("evaluate.exams.Mine", None), ("evaluate.exams.swapping.count", -1), ("evaluate.pair_lists", "~/lists"),
        ("faceforensics.quality", "c41"), ("faceforensics.frames", 0), ("faceforensics.threshold", 2.0),
        ("promote.min_pairs.swaping", 3), ("promote.min_pairs.swapping", -1),
        ("sample.seconds", datetime.date(2026, 11, 28)), ("seed", datetime.date(2026, 11, 28)),
        ("crop", None), ("crop", 3), ("crop", []), ("crop.gop", None), ("crop.gop", True), ("crop.gop", "8"),
    ],
)  # fmt: skip
def test_every_absurd_value_is_named_by_its_dotted_name(values, tmp_path, name, value):
    put(values, name, value)
    with pytest.raises(ValueError) as error:
        load(values, tmp_path)
    assert f"\n  {name}" in str(error.value)


def put(values: dict, name: str, value: object) -> None:
    *sections, key = name.split(".")
    for section in sections:
        values = values[section]
    values[key] = value


def test_all_that_is_wrong_is_said_at_once(values, tmp_path):
    wrong = {"seed": -1, "sample.persons": 0, "crop.gop": 0, "evaluate.pairs": 0, "compute.workers": 0}
    for name, value in wrong.items():
        put(values, name, value)
    with pytest.raises(ValueError) as error:
        load(values, tmp_path)
    assert all(f"\n  {name}: " in str(error.value) for name in wrong)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("croop", "crop"), ("crop.goop", "gop"), ("train_swapping.weights.identiti", "identity"),
        ("promote.min_pairs.swaping", "swapping"), ("pairs.test_image", "test_images"),
        ("evaluate.exams.swapping.modell", "model"),
        ("promote.gates.swapping.csim.flor", "floor"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_told_what_it_looks_like(values, tmp_path, name, meant):
    sections = ("promote", "gates", "swapping.csim", "flor") if "csim" in name else name.split(".")
    inner = values
    for section in sections[:-1]:
        inner = inner[section]
    inner[sections[-1]] = 1
    with pytest.raises(ValueError, match=rf"unknown key, did you mean {meant}\?"):
        load(values, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-11-28: 3\n", "2026-11-28: unknown key"),
        ("? [a, b]\n: 1\n", "unknown key"),
        ("seed: 0\n", "seed"),  # a second time
        ("more: [\n", "not valid YAML"),
    ],
)
def test_what_yaml_allows_and_settings_do_not(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text() + text)
    with pytest.raises(ValueError, match=message):
        params.load(path)


def test_home_is_what_the_tilde_means(values, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cookies.txt").write_text("")
    values["download"]["cookies"], values["pairs"]["evaluation_pairs"] = "~/cookies.txt", "~/list.csv"
    values["compute"]["storage"] = "~/runs"
    values["weights"]["roles"] = {"regressor": {"file": "~/d3dfr.onnx", "sha256": "0" * 64}}
    found = params.load(write(values, tmp_path))
    regressor = found.weights.roles["regressor"].file
    paths = found.download.cookies, found.pairs.evaluation_pairs, found.compute.storage, regressor
    assert paths == tuple(str(tmp_path / name) for name in ("cookies.txt", "list.csv", "runs", "d3dfr.onnx"))
    values["pairs"]["path"] = "~/pictures"
    with pytest.raises(ValueError, match=rf"pairs.path: '~/pictures': .*: write {tmp_path}/pictures"):
        params.load(write(values, tmp_path))


def test_missing_keys_are_named(values, tmp_path):
    del values["crop"]["gop"], values["seed"]
    with pytest.raises(ValueError, match="seed: missing") as error:
        load(values, tmp_path)
    assert "crop.gop: missing" in str(error.value)


def test_a_file_is_read_as_dvc_reads_it(tmp_path):
    """DVC reads and writes YAML 1.2, in which 1e-05 is a number, and yes and 010 are not what 1.1 takes them for."""
    from dvc.utils.serialize import load_yaml

    text = "a: 1e-05\nb: 1.0e-4\nc: yes\nd: 010\ne: 1_000\nf: 12:30\ng: null\nh: [2, 4]\ni: .5\nj: 0o17\nk: on\n"
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert params.read(path) == load_yaml(str(path))
    assert params.read(path)["a"] == 1e-5 and params.read(path)["c"] == "yes"
    for name in ("params.yaml", "params.paper.yaml"):
        assert params.read(ROOT / name) == load_yaml(str(ROOT / name))


def test_what_dvc_writes_for_a_small_rate_is_loaded(tmp_path):
    """As `dvc exp run -S train_reenactment.lr=0.00001` rewrites the file."""
    from dvc.utils.serialize import modify_yaml

    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    with modify_yaml(str(path)) as values:
        values["train_reenactment"]["lr"] = 0.00001
        values["model"]["skip_strides"] = [2, 4]
    assert "lr: 1e-05" in path.read_text()
    found = params.load(path)
    assert (found.train_reenactment.lr, found.model.skip_strides) == (1e-5, (2, 4))


@pytest.mark.parametrize("name", ["params.yaml", "params.paper.yaml"])
def test_no_value_is_an_anchors(name):
    """DVC would move the anchor of a value that `-S` replaces, and change every other place of it."""
    tokens = yaml.scan((ROOT / name).read_text())
    assert not [token for token in tokens if isinstance(token, yaml.AnchorToken | yaml.AliasToken)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 48}, "image_size: 48: use 32, 64, 128, 256 or 512"),
        ({"model.image_size": 64}, "model.image_size: unknown key: params.yaml has one image_size, at its top"),
        ({"model.skip_strides": [2, 16]}, "model.skip_strides: [2, 16]: choose from [1, 2, 4]"),
        ({"train_reenactment.batch_size": 3}, "train_reenactment.batch_size: 3 is no multiple of compute.workers x"),
        (
            {"model.use_attrt": False, "train_reenactment.weights.person": 0.3},
            "train_reenactment.weights.person: 0.3: there is",
        ),
        ({"train_swapping.augmentation": ["mirror"]}, "train_swapping.augmentation: pairs of portraits are not augm"),
        ({"train_swapping.skip_from": 5000}, "train_swapping.skip_from: 5000: never comes in "),
        ({"train_swapping.checkpoint_every": 15}, "train_swapping.checkpoint_every: 15: no multiple of log_every, 10"),
        ({"sample.test_persons": 126}, "sample.test_persons: 126 is not below sample.persons, 126"),
        ({"crop.min_frames": 2000}, "crop.min_frames: 2000 is not at most crop.max_frames, 1024"),
        ({"pairs.split": "images", "pairs.test_images": 3000}, "pairs.test_images: 3000 leaves none of the sample's"),
        ({"evaluate.exams": None}, "evaluate.exams: "),
        ({"download.source": "youtube", "download.url": "https://x"}, "download.url: 'https://x' does not say where"),
    ],
)
def test_what_does_not_go_together_is_named_at_load(values, tmp_path, changes, said):
    for name, value in changes.items():
        *sections, key = name.split(".")
        functools.reduce(dict.__getitem__, sections, values)[key] = value
    with pytest.raises(ValueError, match=r"params\.yaml has wrong keys or values") as error:
        load(values, tmp_path)
    assert f"\n  {said}" in str(error.value)


def test_gates_ask_for_exams_that_there_are(values, tmp_path):
    values["evaluate"]["exams"] |= {"swapping": None, "both": {"task": "swapping", "model": "reenactment"}}
    values["evaluate"]["exams"]["both"]["pairs"] = "two_persons"
    with pytest.raises(ValueError) as error:
        load(values, tmp_path)
    assert "\n  promote.gates.swapping.csim: evaluate.exams has no swapping" in str(error.value)
    assert "\n  promote.min_pairs.swapping: unknown key" in str(error.value)
    values["promote"] = {"gates": {"both.csim": {"better": "higher", "floor": 0.1, "tolerance": None}}, "min_pairs": {}}
    found = load(values, tmp_path)
    assert found.evaluate.exams["both"].model == "reenactment" and found.evaluate.exams["both"].task == "swapping"


def test_a_regressor_of_another_kind_needs_its_landmarks(values, tmp_path):
    values["weights"]["roles"] = {"regressor": {"file": "epoch_20.pth", "sha256": "0" * 64}}
    with pytest.raises(ValueError, match=r"weights\.roles\.regressor\.landmarks: missing: similarity_Lm3D_all\.mat"):
        load(values, tmp_path)


def test_wrong_combinations_are_said_at_once(values, tmp_path):
    values["train_reenactment"]["batch_size"], values["sample"]["test_persons"] = 3, 500
    with pytest.raises(ValueError) as error:
        load(values, tmp_path)
    assert "train_reenactment.batch_size" in str(error.value) and "sample.test_persons" in str(error.value)


def test_a_key_twice_and_a_file_of_nothing_are_refused(tmp_path):
    path = tmp_path / "params.yaml"
    for text, said in (
        ("seed: 1\nseed: 2\n", "line 2"),
        ("", "holds no settings"),
        ("seed: [1\n", "is not valid YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            params.load(path)


def test_environment_overrides_compute(monkeypatch):
    monkeypatch.setenv("UNIFACE_WORKERS", "4")
    assert params.load(ROOT / "params.yaml").compute.workers == 4
    monkeypatch.setenv("UNIFACE_WORKERS", "many")
    with pytest.raises(ValueError, match="UNIFACE_WORKERS"):
        params.load(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value"), [("crop", "gop", "often"), ("train_reenactment", "batch_size", 7)]
)
def test_command_fails_within_two_seconds_with_the_dotted_name(values, tmp_path, section, key, value):
    values[section][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.params"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2 and f"{section}.{key}" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    # of processor time: the machine may be busy
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
