# `make quickstart` and `make test` do all of their own set-up; nothing here needs root.
PYTHON ?= python3
VENV   := .venv
STAMP  := $(VENV)/.installed
BIN    := $(VENV)/bin

# Worker processes of the tests; each computes on one thread.
TEST_WORKERS ?= 2
# Extra words for the commands, e.g. `make quickstart ARGS="--audio ~/recordings"` or `make test ARGS=tests/unit`.
ARGS ?=

.PHONY: help setup quickstart test check format clean distclean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP) ## create .venv and install the project with its pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "speechssl needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  echo "venv without ensurepip: pip of $(PYTHON) installs into $(VENV)"; \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } || { \
	  rm -rf $(VENV); \
	  echo "cannot create $(VENV): $(PYTHON) has neither ensurepip nor pip; install them (Debian: apt-get install python3-venv) or set PYTHON=" >&2; \
	  exit 1; }
	@echo "installing speechssl into $(VENV); the first time fetches some gigabytes and takes minutes"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: setup ## the whole pipeline on real speech, about ten minutes on two cores
	$(BIN)/speechssl quickstart $(ARGS)

test: setup ## all tests
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(ARGS)

check: setup ## formatting, lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build output; runs and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find speechssl tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## also remove .venv
	rm -rf $(VENV)
