"""The import rule flows -> pipeline -> uniface, one home for each heavy package, and a light `import uniface`."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from pipeline.common.code import closure, imports

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "uniface": {"pipeline", "flows", "ray", "prefect", "dvc", "mlflow"},
    "pipeline": {"flows", "prefect"},
    "flows": {"torch"},
}
HOMES = {
    "prefect": {"flows"},
    "ray": {
        "pipeline/common/cluster.py",
        "pipeline/common/joining.py",
        "pipeline/train.py",
        "pipeline/training/worker.py",
    },
    "mlflow": {"pipeline/tracking", "uniface/use/bundle.py"},
    "insightface": {"uniface/faces.py"},
    "decord": {"uniface/data.py"},
}


@cache
def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_go_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    names = [f.relative_to(ROOT).as_posix() for f in files]
    homes = {name: {heavy for heavy, places in HOMES.items() if name in places} for name in names}
    wrong = {n: imported(f) & FORBIDDEN[package] - homes[n] for n, f in zip(names, files, strict=True)}
    assert not {name: found for name, found in wrong.items() if found}


@pytest.mark.parametrize("package", sorted(HOMES))
def test_heavy_package_has_one_home(package):
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in FORBIDDEN
        for path in (ROOT / folder).rglob("*.py")
        if package in imported(path)
    ]
    strangers = [
        user for user in users if not any(user == home or user.startswith(f"{home}/") for home in HOMES[package])
    ]
    assert users and not strangers


def test_no_module_imports_itself_by_way_of_others():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("uniface", "pipeline")
        for path in (ROOT / package).rglob("*.py")
        if path.stem != "__init__"
    ]
    circles = {module for module in modules if any(module in closure(other, stop=()) for other in imports(module))}
    assert len(modules) > 60 and not circles


def test_import_uniface_is_light():
    code = "import sys, uniface; print(*[m for m in ('ray', 'prefect', 'dvc', 'mlflow') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.split() == []
