"""`make repro` around the stages: what it asks for before set-up, and what it says last when a stage fails."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "error: data/celebahq is empty: put the images there"
DVC = f"""#!/bin/sh
mkdir -p work
echo "{SENTENCE}" | tee work/failed.txt >&2
echo "ERROR: failed to reproduce 'pairs': failed to run: python -m pipeline.pairs, exited with 1" >&2
exit 255
"""


def make(folder: Path) -> subprocess.CompletedProcess:
    shutil.copy(ROOT / "Makefile", folder)
    # neither the make that runs these tests nor a repository further up counts
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment["GIT_CEILING_DIRECTORIES"] = str(folder.parent)
    command = ["make", "repro"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_a_downloaded_zip_is_told_what_it_lacks_before_set_up(tmp_path):
    done = make(tmp_path)
    assert done.returncode == 2 and "here is none: git init\n" in done.stderr
    assert done.stdout == "" and not (tmp_path / ".venv").exists()


def test_the_sentence_of_a_failed_stage_is_said_last(tmp_path):
    """Below what DVC says of it."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name, text in (("python", "#!/bin/sh\n"), ("dvc", DVC)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / ".venv/.done").touch()
    done = make(tmp_path)
    assert done.returncode == 2
    *_, dvc, sentence, makes_own = done.stderr.splitlines()
    assert dvc.startswith("ERROR: failed to reproduce") and sentence == SENTENCE and makes_own.startswith("make: ***")
