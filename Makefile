# The two commands to know: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHONPATH :=

.PHONY: help demo setup fmt lint types test test-all check golden lowest build clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps remember what was installed; they fall out of date with pyproject.toml.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev,train]'
	touch $@ $(VENV)/.installed

demo: $(VENV)/.installed ## install, enlarge the pictures of examples/ four times into out/
	$(BIN)/strsr upscale examples out --scale 4
	@echo "Look at the pictures in $(CURDIR)/out, beside those in $(CURDIR)/examples"

setup: $(VENV)/.installed-dev ## install with all that development needs

fmt: $(VENV)/.installed-dev ## format the code
	$(BIN)/ruff check --fix -q .
	$(BIN)/ruff format .

lint: $(VENV)/.installed-dev ## style and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev ## static types
	$(BIN)/mypy

# Two processes with one thread each: half the time of one with two.
test: $(VENV)/.installed-dev ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(VENV)/.installed-dev ## the slow tests too
	$(BIN)/python -m pytest -m 'not gpu and not network'

check: lint types test ## all that must hold before a commit

golden: $(VENV)/.installed-dev ## make the stored help pages, the manual page and images of the tests again
	STRSR_UPDATE_GOLDEN=1 $(BIN)/python -m pytest -q tests/commands/test_help.py tests/upscale/test_golden.py
	$(BIN)/python scripts/make_man_page.py

# Not a part of check: it downloads and installs some 7 GB for each Python.
lowest: $(VENV)/.installed-dev ## the fast tests with the oldest packages that are allowed
	$(BIN)/pip install -q --disable-pip-version-check uv
	$(BIN)/python scripts/lowest.py 3.10 3.13

build: $(VENV)/.installed-dev ## wheel and sdist into dist/
	$(BIN)/python -m build

clean: ## remove what was built
	rm -rf build dist out .lowest .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
