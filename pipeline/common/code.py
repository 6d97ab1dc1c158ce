"""Which code a result depends on: the modules that an import brings in, and a digest that comments do not change.

DVC reruns a stage when one of the files in `dvc.yaml` changes; a test compares those lists with `closure`. The folders
in `work/` are named by `code` too, so that what was begun with other code is not taken for what this code would make.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("uniface", "pipeline")

NEUTRAL = (
    "pipeline.checks",
    "pipeline.common.bucket",  # where files lie
    "pipeline.common.checkpoints",  # where a training goes on; each of them leads to the same
    "pipeline.common.cluster",  # who computes, not what
    "pipeline.common.code",
    "pipeline.common.joining",
    "pipeline.common.files",  # how files are written and named
    "pipeline.common.lost",
    "pipeline.common.places",
    "pipeline.common.progress",
    "pipeline.nets.centre",  # makes a file that somebody may name in params.yaml
    "pipeline.params",  # reads the values, which are DVC's parameters
    "pipeline.sections",  # their types
    "pipeline.tracking.journal",  # what a training tells MLflow
    "pipeline.tracking.runs",
    "pipeline.tracking.store",
    "pipeline.tracking.watch",
    "pipeline.videos.elsewhere",  # who crops and packs, and where the result lies
    "pipeline.videos.look",  # what `pipeline.crop look` prints
    "uniface.files",
    "uniface.store",  # where files lie
)
"""Modules that cannot change a result: none of them, and nothing that only they import, is among the dependencies."""


@cache
def imports(module: str) -> frozenset[str]:
    """The project's modules that `module` imports anywhere in its code, also inside functions, but not for types."""
    found = set()
    for node in _running(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in found if name.split(".")[0] in PACKAGES and _file(name).is_file())


def closure(module: str, stop: tuple[str, ...] = NEUTRAL) -> set[str]:
    """`module` and all that it imports, directly or not, without the modules of `stop` and what only they import."""
    found, open_ = set(), [module]
    while open_:
        name = open_.pop()
        if name not in found and name not in stop:
            found.add(name)
            open_ += imports(name)
    return found


@cache
def code(module: str) -> str:
    """12 hex digits that change with what `closure` of a module computes: its syntax, without docstrings."""
    total = hashlib.sha256()
    for name in sorted(closure(module)):
        total.update(f"{name}\n{ast.dump(_without_docstrings(_tree(name)))}\n".encode())
    return total.hexdigest()[:12]


def _file(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _running(tree: ast.AST):
    """Every node but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from _running(node)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without any statement that is nothing but a text, which is what docstrings are."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
