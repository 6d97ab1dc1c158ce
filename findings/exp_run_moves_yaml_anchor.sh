#!/usr/bin/env bash
# DVC 3.67.1 + YAML anchors: one size used twice, set with `dvc exp run -S`.
#
# Guess: a value that is anchored (&size) and used by an alias (*size) is one value: -S changes it for both users, as
#   an editor does; or DVC refuses to write a file with aliases.
# Seen: -S replaces the anchored number by a plain one, and the alias becomes the new anchor with the *old* number: the
#   two users of the one size now differ, without a word, and later edits of either reach only one.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="dvc==3.67.1 ruamel-yaml==0.19.1"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work" PATH="$work/venv/bin:$PATH"
mkdir project && cd project
git init -q && git config user.name "A Person" && git config user.email person@example.org
dvc init -q && dvc config core.analytics false
printf 'crop:\n  size: &size 256\ntrain:\n  size: *size\n' > params.yaml
printf 'stages:\n  train:\n    cmd: cat params.yaml\n    params: [crop, train]\n' > dvc.yaml
git add -A && git commit -qm "first"
dvc exp run -S crop.size=128 > said 2>&1
cat params.yaml
dvc params diff
diff params.yaml <(printf 'crop:\n  size: 128\ntrain:\n  size: &size 256\n')
if grep -i -E "anchor|alias" said; then exit 1; fi
echo "as stated"
