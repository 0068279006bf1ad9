# Needs Python 3.11+ and make; everything else is installed into .venv from the locked requirements.
# Another interpreter: make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
CONFIG ?= configs/exporter.yaml
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help install run demo test test-unit lint format bench bench-detection dashboards kubernetes screenshots examples lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Hash-checked, so that what is installed is what was locked; the stamp makes a second call free.
$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, %s is %d.%d; set PYTHON=/path/to/python3.11" % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

install: $(VENV)/.installed ## set up .venv from the lock

run: install ## run the exporter (CONFIG=configs/exporter.yaml)
	$(BIN)/tempo-anomaly-exporter --config $(CONFIG)

demo: install ## a week of synthetic traffic, and the exporter reading it
	$(BIN)/tempo-anomaly-exporter demo

# One worker more than two processors: tests of real processes mostly wait.
# Without byte code, every worker of every run compiles all tests again: several seconds each.
unexport PYTHONDONTWRITEBYTECODE
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test: install ## all tests
	$(PYTEST)

test-unit: install ## unit tests only (within a minute)
	$(PYTEST) tests/unit

lint: install ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install ## rewrite to the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## measure against the budgets of the design
	$(BIN)/python -m benchmarks

bench-detection: install ## measure the detector against its targets
	$(BIN)/python -m benchmarks.detection

dashboards: install ## bring dashboards that Grafana has exported into the form in which they are kept
	$(BIN)/python -m tools.dashboards

kubernetes: install ## renew the Kubernetes manifests that are made of other files
	$(BIN)/python -m tools.prometheus_rule

screenshots: install ## renew the pictures of the documentation (needs chromium and chromium-driver)
	$(BIN)/python -m tests.support.screenshots

examples: install ## renew what docs/examples.md shows of real runs (about five minutes)
	$(BIN)/python -m tools.examples

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url

lock: install ## renew the locked requirements after editing pyproject.toml
	$(COMPILE) --upgrade pyproject.toml -o requirements.lock
	$(COMPILE) --upgrade -c requirements.lock --group dev pyproject.toml -o requirements-dev.lock
	$(COMPILE) -c requirements-dev.lock --group pyproject.toml:build -o requirements-build.lock

clean: ## remove what make has built
	rm -rf .venv .venv-* $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
