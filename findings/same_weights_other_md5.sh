#!/usr/bin/env bash
# safetensors 0.8.0 + DVC 3.67.1: the same weights written twice, with a few words of metadata.
#
# Guess: safetensors is a plain header and the tensors, sorted by the library; equal tensors and an equal metadata dict
#   make equal bytes, so a stage run again leaves DVC nothing to do behind it.
# Seen: without metadata that is so. With metadata its keys come in another order at every save (two saves in one
#   process differ as well), the md5 changes, and DVC holds the model for changed and would run what follows again.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="dvc==3.67.1 safetensors==0.8.0 numpy==2.4.6"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work" PATH="$work/venv/bin:$PATH"
mkdir project && cd project
git init -q && dvc init -q && dvc config core.analytics false
cat > train.py <<'PY'
import numpy as np
from safetensors.numpy import load_file, save, save_file

weights = {name: np.arange(4, dtype=np.float32) for name in ("fc.weight", "conv.weight", "conv.bias")}
words = {key: "1" for key in "step seed stage size commit arch paper licence data loss".split()}  # 10! orders
save_file(weights, "plain.safetensors")
save_file(weights, "named.safetensors", metadata=words)
print("plain", save(weights) == save(weights), "named", save(weights, words) == save(weights, words))
assert all(np.array_equal(load_file("named.safetensors")[name], weights[name]) for name in weights)
PY
cat > dvc.yaml <<'YAML'
stages:
  train: {cmd: python train.py, deps: [train.py], outs: [plain.safetensors, named.safetensors]}
  test_plain: {cmd: "true", deps: [plain.safetensors]}
  test_named: {cmd: "true", deps: [named.safetensors]}
YAML
dvc repro -q | tee said
[ "$(cat said)" = "plain True named False" ]
before=$(dvc status)
dvc repro -q --force --single-item train >/dev/null
after=$(dvc status)
printf '%s\n' "before: $before" "after the same training again:" "$after"
[ "$before" = "Data and pipelines are up to date." ]
grep -q "test_named:" <<<"$after"
if grep -q "test_plain:" <<<"$after"; then exit 1; fi
echo "as stated"
