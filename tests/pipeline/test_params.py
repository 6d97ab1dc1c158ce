"""params.yaml: strict, typed, with dotted names in errors; both profiles have the same keys."""

import subprocess
import sys
import time
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


def load(values, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return params.load(path)


def test_both_profiles_load_and_have_the_same_keys(values):
    paper = yaml.safe_load((ROOT / "params.paper.yaml").read_text())
    gates = ("promote.floors.", "promote.tolerances.")
    assert {k for k in keys(values) if not k.startswith(gates)} == {k for k in keys(paper) if not k.startswith(gates)}
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


def test_missing_keys_are_named(values, tmp_path):
    del values["crop"]["gop"], values["seed"]
    with pytest.raises(ValueError, match="seed: missing") as error:
        load(values, tmp_path)
    assert "crop.gop: missing" in str(error.value)


def test_environment_overrides_compute(monkeypatch):
    monkeypatch.setenv("UNIFACE_WORKERS", "4")
    assert params.load(ROOT / "params.yaml").compute.workers == 4
    monkeypatch.setenv("UNIFACE_WORKERS", "many")
    with pytest.raises(ValueError, match="UNIFACE_WORKERS"):
        params.load(ROOT / "params.yaml")


def test_command_fails_fast_with_the_dotted_name(values, tmp_path):
    values["crop"]["gop"] = "often"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.params"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "crop.gop" in done.stderr
    assert time.monotonic() - started < 10
