"""Outputs on another disk by DVC's cache: `dvc cache dir`, and `dvc checkout --relink` after a stage."""

import shutil
import tempfile
from pathlib import Path

import pytest
from tiny_project import change_params, command, make_tiny, ran


@pytest.mark.road
def test_stages_run_and_run_again_with_the_cache_on_another_disk(tmp_path):
    project = make_tiny(tmp_path / "project")
    disk = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        assert command(project, "dvc", "cache", "dir", "--local", str(disk / "cache")).returncode == 0
        for seed, expected in ((0, ["weights", "pairs"]), (1, ["pairs"])):
            change_params(project, {"seed": seed})
            done = command(project, "dvc", "repro", "pairs")
            assert done.returncode == 0 and ran(done.stdout) == expected, done.stdout[-3000:]
            linked = command(project, "dvc", "checkout", "--relink", "data/pairs")  # a stage leaves copies
            assert linked.returncode == 0, linked.stdout
            assert "up to date" in command(project, "dvc", "status", "pairs").stdout
        shard = project / "data/pairs/train.parquet"
        if disk.stat().st_dev != project.stat().st_dev:
            assert shard.is_symlink() and shard.resolve().is_relative_to(disk)
        assert shard.read_bytes() and not (project / "data/pairs").is_symlink()
        (project / "data/pairs").rename(project / "elsewhere")
        (project / "data/pairs").symlink_to(project / "elsewhere")
        refused = command(project, "python", "-m", "pipeline.pairs")
        assert refused.returncode == 1 and refused.stdout.startswith("error: data/pairs is a link to"), refused.stdout
    finally:
        shutil.rmtree(disk)
