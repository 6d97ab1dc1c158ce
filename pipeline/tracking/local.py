"""What the project's own registry holds, read without MLflow, whose import takes three seconds of a processor."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.tracking import store, versions
from uniface.config import TASKS


def serves(name: str, weights: str, root: Path) -> bool:
    """Whether `mlflow.db` here has a version of the weights of this digest whose files are whole.

    False means doubt, not absence: a server's registry, other tables, a moved project. MLflow's own calls say more.
    """
    path = Path(root).resolve() / "mlflow.db"
    if os.environ.get("MLFLOW_TRACKING_URI") or not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            (state,) = database.execute(
                "SELECT lifecycle_stage FROM experiments WHERE name = ?", (store.EXPERIMENT,)
            ).fetchone() or (None,)
            sources = database.execute(
                "SELECT v.source FROM model_versions v JOIN model_version_tags t USING (name, version) "
                "WHERE v.name = ? AND t.key = 'weights_digest' AND t.value = ? ORDER BY v.version DESC",
                (name, weights),
            ).fetchall()
    except sqlite3.DatabaseError:
        return False
    if state != "active" or not sources:
        return False
    folder = Path(unquote(urlsplit(sources[0][0]).path))
    if not folder.is_relative_to(path.parent / store.ARTIFACTS):
        return False
    try:
        files = {task: folder / "artifacts" / f"{task}.safetensors" for task in TASKS}
        return versions.pair_digest(files) == weights
    except (OSError, ValueError):
        return False
