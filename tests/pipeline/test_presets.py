"""pipeline/presets.py: the params files are what the presets make, and a preset can only name what the base has."""

from pathlib import Path

import pytest
import yaml

from pipeline import presets

ROOT = Path(__file__).resolve().parents[2]
BASE = """# The base.
# Copy it.
size: 64    # pixels

train:      # the stage
  lr: 0.1
  weights:
    colour: 1.0
other:
  lr: 0.2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/base.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_params_files_are_what_the_presets_make():
    made = presets.presets(ROOT)
    assert set(made) == {"params.yaml", "params.long.yaml", "params.paper.yaml", "params.yours.yaml"}
    for name, text in made.items():
        if name != "params.yaml":  # which is its user's to change; `make lint` compares it too
            assert (ROOT / name).read_text() == text, f"{name}: python -m pipeline.presets writes it"


def test_no_line_of_the_paper_repeats_the_base():
    """What presets/paper.yaml names differs in its value."""
    base, paper = (ROOT / f"presets/{name}.yaml" for name in ("base", "paper"))
    values, others = yaml.safe_load(base.read_text()), yaml.safe_load(paper.read_text())

    def same(one, other, name):
        if isinstance(other, dict) and not {"better", "task"} & set(other):
            return [found for key in other for found in same(one[key], other[key], f"{name}.{key}")]
        return [name] if one == other else []

    assert same(values, others, "params") == []


def test_a_line_takes_the_place_of_the_one_with_the_same_key(folder):
    (folder / "presets/big.yaml").write_text(
        "# Big.\nsize: 256    # more pixels\ntrain:\n  weights:\n    colour: 0.0\n"
    )
    made = presets.presets(folder)
    assert made["params.yaml"] == BASE
    assert made["params.big.yaml"].splitlines() == [
        "# Big.",
        "size: 256    # more pixels",
        "",
        "train:      # the stage",
        "  lr: 0.1",
        "  weights:",
        "    colour: 0.0",
        "other:",
        "  lr: 0.2",
    ]


@pytest.mark.parametrize(
    ("text", "key"), [("sise: 1\n", "sise"), ("train:\n  colour: 1\n", "train.colour"), ("lr: 1\n", "lr")]
)
def test_a_key_that_the_base_does_not_have_is_named(folder, text, key):
    (folder / "presets/big.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"big\.yaml names {key}, which presets/base\.yaml does not have"):
        presets.presets(folder)
    assert presets.main([]) == presets.main(["check"]) == 1
    assert not (folder / "params.yaml").exists()


def test_written_once_and_checked(folder, capsys):
    assert presets.main(["check"]) == 1 and "params.yaml is not what presets/ makes" in capsys.readouterr().err
    assert presets.main([]) == 0 and presets.main(["check"]) == 0
    (folder / "params.yaml").write_text(BASE.replace("64", "65"))
    assert presets.main(["check"]) == 1
    assert presets.main(["all"]) == 2
