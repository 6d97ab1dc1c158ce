"""Where everything of a project lies, and the one way in which a stage's command runs."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.params import Params, load_or_exit


@dataclass(frozen=True)
class Places:
    """The folders and files of the project at `root`; nothing here looks whether they exist."""

    root: Path = Path()

    @property
    def data(self) -> Path:
        """What the data stages write."""
        return self.root / "data"

    @property
    def videos(self) -> Path:
        """Source videos, `<person>/<video>.mp4`; their table lies beside the folder, as videos.parquet."""
        return self.data / "videos"

    @property
    def annotations(self) -> Path:
        """Annotations of the source videos."""
        return self.data / "annotations"

    @property
    def clips(self) -> Path:
        """Shards of face clips and their index."""
        return self.data / "clips"

    @property
    def pairs(self) -> Path:
        """Shards of portraits and the tables of pairs."""
        return self.data / "pairs"

    @property
    def nets(self) -> Path:
        """The frozen networks and weights.json, which describes them."""
        return self.data / "weights"

    @property
    def reports(self) -> Path:
        """What a person reads: numbers, tables, pictures."""
        return self.root / "reports"

    @property
    def work(self) -> Path:
        """What is not finished, or took too long to make twice; never an output."""
        return self.root / "work"

    def model(self, task: str) -> Path:
        """The trained model of a task."""
        return self.root / "models" / f"{task}.safetensors"


def main(stage: Callable[[Params, Places], Any]) -> None:
    """Run a stage in the current folder as params.yaml says.

    What a user can mend ends in one sentence and exit status 1; wrong params in 2.
    """
    params = load_or_exit()
    try:
        stage(params, Places())
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
