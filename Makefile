# Everything starts here. Two commands on a machine with Python 3.11+:
#
#     make demo                      set up, then train and evaluate the quickstart agent
#     make test                      set up for development, then every check and every test
#
# Variables:
#     SEED, OUT       of the demo
#     PYTHON, VENV    interpreter that makes the environment, and where it is made
#     VENV_VLLM       where the environment of the vLLM server is made, which the tests start
#     PHRONESIS_CATALOGUES  where the environments of catalogues of other makes are made, which the tests play
#     TORCH_INDEX     extra package index for torch; on Linux, plain pip fetches the CUDA build of several gigabytes, and
#                     the PyTorch installation page names an index that has only the CPU build
#     WORKERS         parallel test processes
#     CASE            benchmarks to run, see `python -m bench --help`

SEED ?= 0
OUT ?= runs/quickstart-seed$(SEED)
PYTHON ?= python3
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
PHRONESIS_CATALOGUES ?= .venv-catalogues
WORKERS ?= 2
TORCH_INDEX ?=

BIN := $(VENV)/bin
export PYTHON VENV VENV_VLLM TORCH_INDEX PHRONESIS_CATALOGUES
export OMP_WAIT_POLICY ?= passive

.PHONY: help setup setup-dev setup-vllm setup-catalogues demo chaos test lint format bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1 \2/p' $(MAKEFILE_LIST) | while read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

$(VENV)/.setup-run: pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh run

$(VENV)/.setup-dev: pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh dev

setup: $(VENV)/.setup-run  ## make the environment that runs things

setup-dev: $(VENV)/.setup-dev  ## make the environment that also tests them

$(VENV_VLLM)/.setup-vllm: scripts/setup_vllm.sh scripts/vllm_versions.txt
	@sh scripts/setup_vllm.sh

setup-vllm: $(VENV_VLLM)/.setup-vllm  ## make the environment of a vLLM server on the CPU, which the tests need

setup-catalogues: setup-dev  ## make the environments of catalogues of other makes, which the tests play
	@$(BIN)/phronesis catalogue setup --all

demo: setup  ## train and evaluate the quickstart agent (SEED=0 OUT=runs/...)
	@$(BIN)/phronesis train quickstart --seed $(SEED) --out "$(OUT)"
	@echo "Report: $(OUT)/report.html"

chaos: setup  ## train three worlds twice, the second time broken on purpose, and compare (SEED=0)
	@$(BIN)/python scripts/chaos.py --seed $(SEED)

lint: setup-dev  ## style, types, layers, size budgets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_budgets.py

test: lint setup-vllm setup-catalogues  ## every check, then every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engine_vllm  # by itself: one server takes the whole machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/cluster_ray  # by itself: a Ray cluster of this machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/catalogues  # by itself: workers are shared by all its tests

format: setup-dev  ## rewrite files in the house style, and the pages that are written from the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python scripts/algorithms.py
	OMP_NUM_THREADS=1 $(BIN)/python scripts/worlds.py
	OMP_NUM_THREADS=1 $(BIN)/python scripts/cheats.py

bench: setup  ## measure against peers (CASE="trl-guess" ...)
	$(BIN)/python -m bench $(CASE)

clean:  ## remove what set-up and runs left behind (runs/ is kept)
	rm -rf $(VENV) $(VENV_VLLM) $(PHRONESIS_CATALOGUES) .venv-trl .venv-verl bench/results .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
