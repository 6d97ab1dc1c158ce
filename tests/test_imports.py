"""The import rule flows -> pipeline -> uniface, one home for each heavy package, and a light `import uniface`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "uniface": {"pipeline", "flows", "ray", "prefect", "dvc", "mlflow"},
    "pipeline": {"flows", "prefect"},
    "flows": {"torch"},
}
HOMES = {
    "prefect": {"flows"},
    "ray": {"pipeline/cluster.py", "pipeline/train.py"},
    "mlflow": {"pipeline/tracking.py", "pipeline/serving.py"},
    "insightface": {"uniface/faces.py"},
    "decord": {"uniface/data.py"},
}


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
    wrong = {str(f.relative_to(ROOT)): imported(f) & FORBIDDEN[package] for f in files}
    assert not {name: found for name, found in wrong.items() if found}


@pytest.mark.parametrize("package", sorted(HOMES))
def test_heavy_package_has_one_home(package):
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in FORBIDDEN
        for path in (ROOT / folder).rglob("*.py")
        if package in imported(path)
    ]
    strangers = [u for u in users if u not in HOMES[package] and u.split("/")[0] not in HOMES[package]]
    assert users and not strangers


def test_import_uniface_is_light():
    code = "import sys, uniface; print(*[m for m in ('ray', 'prefect', 'dvc', 'mlflow') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.split() == []
