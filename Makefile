# Everything runs inside .venv. The first target that needs it makes it from pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo page test quality style docs help

demo: $(INSTALLED)  ## train on rendered characters, cut five subnetworks, draw what they find (minutes, no GPU)
	$(BIN)/prunnet demo --overwrite_output_dir

page: $(INSTALLED)  ## make a web page that searches characters in the browser, into out/page/site (a minute)
	$(BIN)/python examples/page_of_glyphs.py $(PAGE_FLAGS)

test: $(INSTALLED)  ## run the tests (no network, no GPU, no data to fetch)
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal $(PYTEST_FLAGS)

quality: $(INSTALLED)  ## check style, types and which package imports which; change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(INSTALLED)  ## fix what ruff can fix, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)  ## build the documentation into site/; a dead link fails (no network)
	$(BIN)/zensical build --strict --clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp file is newer than pyproject.toml if and only if what pyproject.toml asks for is installed.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'prunnet_hf needs Python 3.11 or newer, and "$(PYTHON)" is missing or older.' >&2; \
		echo 'Name another one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12' >&2; \
		exit 1; }
	@echo 'Setting up $(VENV): minutes and several gigabytes the first time.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@
