.DEFAULT_GOAL := help
SHELL := /bin/bash
# Some environments set it for one-off scripts; here it would have every process compile all of its modules anew.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
PY := $(VENV)/bin/python
# Debian's, as in the worker pods, where there is one: it is built with its optimisations, and is a third faster than one that is not.
PYTHON ?= $(or $(wildcard /usr/bin/python3.11),python3)
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/marty
SOURCES := operator runtime examples dev bench tests

help: ## Show the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

venv: $(VENV)/.ready ## Make the virtual environment with everything the checks need

$(VENV)/.ready: pyproject.toml
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV) || { apt-get update -q && apt-get install -y -q python3-venv && $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing the Python packages into $(VENV)"
	@$(VENV)/bin/pip install -q --cache-dir $(CACHE)/pip -e '.[dev]'
	@touch $@

check: venv ## Format, lint, types, import rules, generated files, unit tests: run before each commit
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(MAKE) --no-print-directory verify
	$(VENV)/bin/pytest -q -n 2 tests/unit

format: venv ## Format the code and mend what the linter can
	$(VENV)/bin/ruff format $(SOURCES)
	$(VENV)/bin/ruff check --fix $(SOURCES)

.PHONY: help venv check format

-include dev/*.mk dev/cluster/*.mk
