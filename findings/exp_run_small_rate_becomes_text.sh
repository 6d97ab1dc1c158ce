#!/usr/bin/env bash
# DVC 3.67.1 + PyYAML 6.0.3: a small learning rate set with `dvc exp run -S`.
#
# Guess: a number that DVC read as a number and wrote into params.yaml is a number for the stage that reads the file,
#   as is the 0.00001 that a person types there.
# Seen: DVC writes 1e-05, a float by YAML 1.2 and so for DVC, whose `params diff` shows a number; PyYAML follows YAML 1.1,
#   which wants a point, and hands the stage the text '1e-05'. The file untouched, the same stage gets the float.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="dvc==3.67.1 ruamel-yaml==0.19.1 pyyaml==6.0.3"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work" PATH="$work/venv/bin:$PATH"
mkdir project && cd project
git init -q && git config user.name "A Person" && git config user.email person@example.org
dvc init -q && dvc config core.analytics false
echo "lr: 0.00001" > params.yaml
cat > train.py <<'PY'
import yaml

print("stage got:", repr(yaml.safe_load(open("params.yaml"))["lr"]))
PY
printf 'stages:\n  train:\n    cmd: python train.py\n    params: [lr]\n' > dvc.yaml
git add -A && git commit -qm "first"
typed=$(dvc repro 2>&1 | grep "stage got")
git add -A && git commit -qm "ran"
set_by_dvc=$(dvc exp run -S lr=0.00002 2>&1 | grep "stage got")
line=$(cat params.yaml)
diff=$(dvc params diff --json)
printf '%s\n' "typed 0.00001: $typed" "-S lr=0.00002: $set_by_dvc" "params.yaml: $line" "DVC: $diff"
[ "$typed" = "stage got: 1e-05" ]
[ "$set_by_dvc" = "stage got: '2e-05'" ]
[ "$line" = "lr: 2e-05" ]
[ "$diff" = '{"params.yaml": {"lr": {"old": 1e-05, "new": 2e-05, "diff": 1e-05}}}' ]
echo "as stated"
