"""Each stage of dvc.yaml depends on all code that can change its result, and on no other."""

from pathlib import Path

import pytest
import yaml

from pipeline.common.code import NEUTRAL, PACKAGES, closure, code, imports

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


# Code that a stage reads as a file and does not import: the version that it registers carries it.
CARRIED = {"register": {"pipeline.tracking.serving", *map(module, (ROOT / "uniface").rglob("*.py"))}}
DOORS = {"uniface"}
"""Packages whose __init__ is more than a text: `uniface.load` is for people, and no stage calls it."""


def entry(stage: str) -> str:
    """The module that the stage's command runs."""
    return STAGES[stage]["cmd"].split()[2]


def dependencies(stage: str) -> set[str]:
    """The modules among the files, and in the folders, that a stage depends on; packages' empty __init__ left out."""
    found = set()
    for name in STAGES[stage]["deps"]:
        path = ROOT / name
        if name.split("/")[0] in PACKAGES:
            found |= {module(p) for p in ([path] if path.suffix else path.rglob("*")) if p.suffix == ".py"}
    return {name for name in found if not name.endswith("__init__")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_its_code(stage):
    needed = closure(entry(stage)) | CARRIED.get(stage, set())
    allowed = closure(entry(stage), stop=()) | CARRIED.get(stage, set())
    found = dependencies(stage)
    assert not {name for name in needed - found if not name.endswith("__init__")}, "missing in dvc.yaml"
    assert not {name for name in found - allowed if name not in NEUTRAL}, "dvc.yaml names code that is not used"


def test_dvc_sees_own_pictures_and_videos_that_are_replaced_at_their_place(tmp_path, monkeypatch):
    """Outside of the project too; what is not used is a page that is always there."""
    from dvc.repo import Repo

    project, own = tmp_path / "project", tmp_path / "own"
    for folder in (project / ".dvc", own / "pictures", own / "videos"):
        folder.mkdir(parents=True)
    (project / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    stages = {}
    for name in ("download", "pairs"):
        deps = [dep for dep in STAGES[name]["deps"] if dep.startswith("${")]
        stages[name] = {"cmd": f"echo {name} > {name}.txt", "deps": deps, "outs": [f"{name}.txt"]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    unused = {values["download"]["folder"], values["download"]["annotations"], values["pairs"]["path"]}
    assert unused == {"data/raw/README.md"} and (ROOT / "data/raw/README.md").is_file()
    values["pairs"]["path"], values["download"]["folder"] = str(own / "pictures"), str(own / "videos")
    values["download"]["annotations"] = str(own / "txt.zip")
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    files = {"pairs": own / "pictures/1.png", "download": own / "videos/1.mp4"}
    for path in (*files.values(), own / "txt.zip"):
        path.write_text("one")

    monkeypatch.chdir(project)

    def repro() -> set[str]:
        with Repo(str(project)) as repo:
            return {stage.name for stage in repo.reproduce()}

    assert repro() == {"download", "pairs"} and repro() == set()
    for name, path in (*files.items(), ("download", own / "txt.zip")):
        path.write_text("two")
        assert repro() == {name}


def test_neutral_modules_exist_and_packages_hold_no_code():
    for name in NEUTRAL:
        assert ROOT.joinpath(*name.split(".")).with_suffix(".py").is_file()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            if module(path.parent / "x").removesuffix(".x") in DOORS:
                continue
            assert imports(module(path)) == frozenset() and len(code(module(path))) == 12
            lines = path.read_text().strip()
            assert lines.startswith('"""') and lines.endswith('"""') and lines.count('"""') == 2


def test_a_new_import_is_noticed(tmp_path, monkeypatch):
    """In a copy: a module that `fomm` imports, even inside a function, belongs to the crop stage's code."""
    import shutil

    from pipeline.common import code as tool

    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "nets"))
    monkeypatch.setattr(tool, "ROOT", tmp_path)

    def forget():
        tool.imports.cache_clear()
        tool.code.cache_clear()

    forget()
    fomm = tmp_path / "pipeline/videos/fomm.py"
    before = tool.code("pipeline.crop")
    text = fomm.read_text()
    assert "The crop protocol" in text and "FPS = 25\n" in text
    fomm.write_text(text.replace("FPS = 25\n", "FPS = 25  # a comment\n").replace("The crop protocol", "The rule"))
    forget()
    assert tool.code("pipeline.crop") == before  # comments and docstrings cost nothing
    fomm.write_text(text + "\n\ndef more():\n    from pipeline.videos import youtube\n\n    return youtube\n")
    forget()
    assert "pipeline.videos.youtube" in tool.closure("pipeline.crop") and tool.code("pipeline.crop") != before
    forget()
