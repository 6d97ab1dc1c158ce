"""`dvc exp run -S` for the settings of every part of the road, here and in a folder of its own (`--temp`)."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from test_whole_road import last_run
from tiny_project import change_params, command, commit, make_tiny, ran

from pipeline import params
from uniface.model import read_metadata

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project of 64 px with its data made; training is what the experiments do."""
    project = make_tiny(tmp_path_factory.mktemp("experiments") / "project")
    change_params(project, {"image_size": 64})
    done = command(project, "dvc", "repro", "crop", "pairs")
    assert done.returncode == 0, done.stdout[-3000:]
    commit(project, "data of 64 px")
    return project


@pytest.mark.parametrize("more", [(), ("--temp",)], ids=["workspace", "temp"])
def test_four_settings_reach_the_training(made, more, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Path(shutil.copytree(made, tmp_path / "project"))
    sets = ("train_reenactment.lr=0.00001", "image_size=32", "model.skip_strides=[2,4]")
    sets += ("train_swapping.weights.identity=2",)
    options = [word for one in sets for word in ("-S", one)]
    home = f"sqlite:///{project / 'mlflow.db'}"  # a folder of its own goes, and a database in it
    done = command(project, "dvc", "exp", "run", *more, *options, "train_swapping", MLFLOW_TRACKING_URI=home)
    assert done.returncode == 0, done.stdout[-3000:]
    assert ran(done.stdout)[-2:] == ["train_reenactment", "train_swapping"]
    assert params.load(project / "params.yaml").image_size == (64 if more else 32)  # `--temp` leaves it alone
    lock = (project / "dvc.lock").read_text()
    if more:  # the experiment is a commit of its own
        name = re.search(r"Ran experiment\(s\): (\S+)", done.stdout)[1]
        references = command(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
        (reference,) = [one for one in references if one.endswith(f"/{name}")]
        lock = command(project, "git", "show", f"{reference}:dvc.lock").stdout
    for task in ("reenactment", "swapping"):
        (out,) = yaml.safe_load(lock)["stages"][f"train_{task}"]["outs"][:1]
        config, _ = read_metadata(project / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:])
        assert (config.image_size, config.skip_strides) == (32, (2, 4))  # which refuses clips and pairs of another size
    assert float(last_run(project, "train_reenactment")["lr"]) == 1e-5
    swapping = last_run(project, "train_swapping")
    assert float(swapping["weights.identity"]) == 2 and float(swapping["lr"]) > 1e-3
