# Everything runs inside .venv, which the first target that needs it makes from pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Every value that `accelerate launch` would otherwise guess, and warn about, is given.
LAUNCH := $(BIN)/accelerate launch --num_machines 1 --num_processes 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(CORES)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test quality style help

demo: $(INSTALLED)  ## train on rendered glyphs, prune to four capacities, save all under out/demo (minutes, no GPU)
	$(LAUNCH) train_accelerate.py --config recipes/demo.yaml

test: $(INSTALLED)  ## run the tests (no network, no GPU, no data to fetch)
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

quality: $(INSTALLED)  ## check style, types and the layers of the house; change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(INSTALLED)  ## mend what ruff can mend, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is younger than pyproject.toml exactly when what that file asks for is installed.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'prunnet_hf needs Python 3.11 or newer, and "$(PYTHON)" is missing or older.' >&2; \
		echo 'Name another one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12' >&2; \
		exit 1; }
	@echo 'Setting up $(VENV): minutes and several gigabytes the first time.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@
