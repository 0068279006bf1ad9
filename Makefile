# Needs Python 3.11 or newer and make. Everything else is installed into .venv from the locked requirements.
# Another interpreter: make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
CONFIG ?= configs/exporter.yaml
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help install run demo test test-unit lint format bench bench-cause bench-detection bench-incidents dashboards \
        kubernetes reference screenshots examples release lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Hash-checked, so that what is installed is what was locked; the stamp makes a second call free.
$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, %s is %d.%d; set PYTHON=/path/to/python3.11" % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

install: $(VENV)/.installed ## install everything into .venv, from the lock

run: install ## run the exporter (CONFIG=configs/exporter.yaml)
	$(BIN)/tempo-anomaly-exporter --config $(CONFIG)

demo: install ## run the exporter on a week of synthetic traffic
	$(BIN)/tempo-anomaly-exporter demo

# One worker more than two processors: tests of real processes mostly wait.
# Without byte code, every worker of every run compiles all tests again: several seconds each.
unexport PYTHONDONTWRITEBYTECODE
# In the order of their names, tests of real processes, each a file that takes long, come first and not at the end, where
# one worker would be left with them.
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: install ## run all tests
	$(PYTEST)

test-unit: install ## run the unit tests only (within a minute)
	$(PYTEST) tests/unit

# actionlint is not in the lock, since its PyPI package downloads a program when it is installed; CI runs it.
SCHEMA = $(BIN)/check-jsonschema --quiet --builtin-schema
lint: install ## check formatting, code, types, spelling, wording and workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m tools.prose
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(SCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	@if command -v actionlint >/dev/null; then actionlint; \
	 else echo "actionlint is not installed: workflows were checked against their schema only"; fi

format: install ## format code and apply automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## measure performance against the budgets (nine minutes)
	$(BIN)/python -m benchmarks

bench-detection: install ## measure detection quality against the targets (long: python -m benchmarks.detection --suite runs a part)
	$(BIN)/python -m benchmarks.detection
	$(BIN)/python -m benchmarks.marks
	$(BIN)/python -m benchmarks.service_shifts

bench-cause: install ## measure how often the right cause is named, on labelled faults (five minutes)
	$(BIN)/python -m benchmarks.cause

bench-incidents: install ## count the notifications of days on which many endpoints are flagged at once (two minutes)
	$(BIN)/python -m benchmarks.incidents

dashboards: install ## normalise dashboards exported from Grafana
	$(BIN)/python -m tools.dashboards
	$(BIN)/python -m tools.helm_chart

kubernetes: install ## regenerate manifests, files of the Helm chart, and Grafana's alert rules
	$(BIN)/python -m tools.prometheus_rule
	$(BIN)/python -m tools.grafana_rules
	$(BIN)/python -m tools.helm_chart

reference: install ## regenerate tables in docs/, configs/exporter.yaml and the schema of the Helm chart's values
	$(BIN)/python -m tests.support.reference

screenshots: install ## retake the screenshots in docs/images (needs chromium and chromium-driver)
	$(BIN)/python -m tests.support.screenshots

examples: install ## regenerate the output in docs/examples.md from real runs (five minutes)
	$(BIN)/python -m tools.examples

release: install ## build sdist and wheel into dist/ and check them
	$(BIN)/python -m tools.release

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url

lock: install ## update the locked requirements after editing pyproject.toml
	$(COMPILE) --upgrade pyproject.toml -o requirements.lock
	$(COMPILE) --upgrade -c requirements.lock --extra mcp --group dev pyproject.toml -o requirements-dev.lock
	$(COMPILE) -c requirements-dev.lock --group pyproject.toml:build -o requirements-build.lock

clean: ## remove everything that make has built
	rm -rf .venv .venv-* $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
