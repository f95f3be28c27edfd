# Assumes git, make and a Python of 3.10 to 3.13; everything else comes into .venv from requirements.lock.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
INSTALLED := .venv/.installed-$(VERSION)
UV := build/uv/bin/uv

define CHECK_PYTHON
@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
  echo "error: PYTHON=$(PYTHON) is not Python 3.10 to 3.13 ($$($(PYTHON) --version 2>&1 | head -n 1)): choose one, as in make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; \
  exit 1; }
endef

.PHONY: help demo test lint format lock clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo     run the whole job on 1,797 handwritten digits: prepare, train, evaluate, predict'
	@echo 'make test     ruff, mypy and all tests'
	@echo 'make lint     ruff and mypy only'
	@echo 'make format   rewrite the code in the house format'
	@echo 'make lock     write requirements.lock from pyproject.toml; UPGRADE=1 takes the newest releases'
	@echo 'make clean    delete .venv, caches and runs/demo'
	@echo 'PYTHON=python3.12 chooses the Python that .venv is made with.'

demo: $(INSTALLED)
	@infra/demo/run.sh

test: lint
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(UV)
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.10 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header $(if $(UPGRADE),--upgrade) --quiet --output-file requirements.lock

clean:
	rm -rf .venv build runs/demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is touched last, so an interrupted installation starts afresh; another PYTHON has another stamp.
$(INSTALLED): requirements.lock
	$(CHECK_PYTHON)
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@

$(UV):
	$(CHECK_PYTHON)
	rm -rf build/uv
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --disable-pip-version-check --quiet uv
