# Assumes git, make and a Python of 3.10 to 3.13; everything else comes into .venv from requirements.lock.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
INSTALLED := .venv/.installed-$(VERSION)
UV := build/uv/bin/uv
BENCH_INSTALLED := build/bench/.installed-$(VERSION)
PEERS := build/bench-peers
PEERS_INSTALLED := $(PEERS)/.installed-$(VERSION)

define CHECK_PYTHON
@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
  echo "error: PYTHON=$(PYTHON) is not Python 3.10 to 3.13 ($$($(PYTHON) --version 2>&1 | head -n 1)): choose one, as in make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; \
  exit 1; }
endef

.PHONY: help demo test soak bench bench-peers test-flink test-network test-browser test-infra test-gcs test-image lint format lock clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo     run the whole job on 1,797 handwritten digits: prepare, train, evaluate, predict'
	@echo 'make test     ruff, mypy and all tests'
	@echo 'make test-flink  the preparation job on a local Flink cluster; needs java and mvn'
	@echo 'make test-network  workers on hosts of their own, whose network and processes fail; needs root and iproute2'
	@echo 'make test-browser  reports and the page of `serve` in a real browser; needs chromium'
	@echo 'make test-infra  the manifests as a cluster would check them; needs go'
	@echo 'make test-gcs    our stand-in for Google Cloud Storage beside fake-gcs-server; needs go'
	@echo 'make test-image  images built by buildah in a chroot; needs root, buildah and debootstrap'
	@echo 'make soak     the tests that take minutes: 30 kills of one job, 50 of a training, searches and batch-size trials'
	@echo 'make bench    speed and memory beside other writers, input pipelines and keras.Model.fit; BENCH=--help: how to run less'
	@echo 'make bench-peers  once, before make bench BENCH=input: PyTorch, DALI, grain, FFCV and others, 6 GB in build'
	@echo 'make lint     ruff and mypy only'
	@echo 'make format   rewrite the code in the house format'
	@echo 'make lock     write requirements.lock from pyproject.toml; UPGRADE=1 takes the newest releases'
	@echo 'make clean    delete .venv, caches and runs/demo'
	@echo 'PYTHON=python3.12 chooses the Python that .venv is made with.'

demo: $(INSTALLED)
	@infra/demo/run.sh

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

soak: $(INSTALLED)
	$(BIN)/python -m pytest -m soak

bench: $(BENCH_INSTALLED)
	PYTHONPATH=$(CURDIR)/build/bench $(BIN)/python -m tests.bench $(BENCH)

bench-peers: $(PEERS_INSTALLED)

# Without Java and Maven there is nothing to test with, which is no failure; everything else is one.
test-flink: $(INSTALLED)
	@if command -v java >/dev/null && command -v mvn >/dev/null; then \
	  $(MAKE) --no-print-directory build/flink/.fetched && $(BIN)/python -m pytest -m flink tests/runners; \
	else \
	  echo 'test-flink: skipped, it needs java and mvn'; \
	fi

test-network: $(INSTALLED)
	$(BIN)/python -m pytest -m 'network and not soak' tests/network

test-browser: $(INSTALLED)
	$(BIN)/python -m pytest -m 'browser and not soak' tests/browser

# Without Go there is nothing to build with, which is no failure; everything else is one.
test-infra: $(INSTALLED)
	@if command -v go >/dev/null; then \
	  $(MAKE) --no-print-directory build/infra/apiserver && $(BIN)/python -m pytest tests/infra/test_apiserver.py; \
	else \
	  echo 'test-infra: skipped, it needs go'; \
	fi

test-gcs: $(INSTALLED)
	@if command -v go >/dev/null; then \
	  $(MAKE) --no-print-directory build/gcs/fake-gcs-server && $(BIN)/python -m pytest tests/gcs; \
	else \
	  echo 'test-gcs: skipped, it needs go'; \
	fi

test-image:
	tests/infra/build_images.sh

build/infra/apiserver: $(wildcard tests/infra/apiserver/*)
	cd tests/infra/apiserver && go build -o '$(CURDIR)/$@' .

build/gcs/fake-gcs-server: tests/gcs/go.mod tests/gcs/go.sum
	cd tests/gcs && go build -o '$(CURDIR)/$@' github.com/fsouza/fake-gcs-server

# Maven's own settings say from where; a second try, because registries fail for a moment.
build/flink/.fetched: infra/flink/pom.xml
	rm -rf build/flink
	mkdir -p build/flink
	fetch='timeout 900 mvn --batch-mode --quiet --file infra/flink/pom.xml dependency:copy-dependencies'; \
	  $$fetch -DoutputDirectory='$(CURDIR)/build/flink/lib' || $$fetch -U -DoutputDirectory='$(CURDIR)/build/flink/lib'
	@touch $@

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
	$(UV) pip compile tests/bench/peers.in --universal --python-version 3.10 --generate-hashes --no-emit-package triton \
	  --no-emit-index-url --no-annotate --no-header $(if $(UPGRADE),--upgrade) --quiet --output-file tests/bench/peers.txt
	for role in build trainer trainer-tpu preprocess; do \
	  cat requirements.lock $(if $(UPGRADE),,infra/docker/$$role.txt) > build/$$role.txt && \
	  mv build/$$role.txt infra/docker/$$role.txt && \
	  $(UV) pip compile infra/docker/$$role.in --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
	    --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet \
	    --output-file infra/docker/$$role.txt || exit 1; \
	done

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

$(BENCH_INSTALLED): tests/bench/requirements.txt $(INSTALLED)
	rm -rf build/bench
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps \
	  --target build/bench --requirement $<
	@touch $@

# FFCV alone is compiled, so that its failure is a line and not the end.
$(PEERS_INSTALLED): tests/bench/peers.txt tests/bench/ffcv.txt
	$(CHECK_PYTHON)
	rm -rf $(PEERS)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps \
	  --requirement tests/bench/peers.txt
	@$(PEERS)/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps \
	  --no-build-isolation --requirement tests/bench/ffcv.txt || \
	  echo 'bench-peers: without FFCV, which needs a C++ compiler, pkg-config, libopencv-dev and libturbojpeg0-dev'
	@touch $@

$(UV):
	$(CHECK_PYTHON)
	rm -rf build/uv
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --disable-pip-version-check --quiet uv
