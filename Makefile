# The front door. Everything below works from a fresh checkout: the first target that needs it sets up
# .venv, which takes Python 3.11 or newer and nothing else. More arguments go through ARGS, e.g.
# make test ARGS="-k placement -x".

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
ARGS ?=
MODULE ?=

# A worker per core, each with servers and a control plane of its own. One that has nothing left to do takes over from
# the end of another's tests: hence the tests of a module stay together, and so does what they share.
EVERY_CORE := --numprocesses=auto --maxprocesses=4 --dist=worksteal

# Branch coverage in per cent: what decides, and what crosses a border, is covered completely.
COVERAGE_COMPLETE := engine/everynode/core/* engine/everynode/wire.py engine/everynode/manifest/*
COVERAGE_ALL_MIN := 85

UV_COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" --quiet

.PHONY: help setup up test check lint bench sim chaos kill-workers recorded control-plane fuzz mutate clean format lock

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## install the locked dependencies and everynode itself into .venv

$(STAMP): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "everynode needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || true)." >&2; \
		echo "Name another one, e.g.: make setup PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	touch $@

up: $(STAMP) ## start server, worker and a simulated fleet, apply deploy/examples, show the result
	$(BIN)/everynode up --once deploy/examples $(ARGS)

# The order of set iteration is part of a run, so it is drawn here, where a failing run can name it.
test: $(STAMP) ## run the tests: all of them on several cores; those that ARGS picks, in one process
	@PYTHONHASHSEED=$${PYTHONHASHSEED:-$$RANDOM} $(BIN)/python -m pytest $(or $(ARGS),$(EVERY_CORE))

check: lint ## what CI runs: format, lint, types, layers, make test, coverage
	rm -f .coverage .coverage.*
	$(MAKE) test ARGS='--cov --cov-report= $(or $(ARGS),$(EVERY_CORE))'
	@for part in $(foreach part,$(COVERAGE_COMPLETE),'$(part)'); do \
		echo "coverage of $$part: 100 % is asked for"; \
		$(BIN)/coverage report --include="$$part" --fail-under=100 || exit 1; \
	done
	@echo "coverage of everything: $(COVERAGE_ALL_MIN) % is asked for"
	@$(BIN)/coverage report --fail-under=$(COVERAGE_ALL_MIN)

lint: $(STAMP) ## the checks that run no code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format, and mend what can be mended without thinking
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The order of sets is fixed, so that the same tree gives the same table.
mutate: $(STAMP) ## change the core in thousands of ways and count what its tests notice; one module: MODULE=placement
	@PYTHONHASHSEED=0 $(BIN)/python -m tests.mutation.run $(MODULE) $(ARGS)

bench: $(STAMP) ## measure, and print a table
	$(BIN)/python benchmarks/run.py $(ARGS)

# Findings are kept in tests/fuzz/corpus, made small, and are replayed by the tests from then on.
fuzz: $(STAMP) ## feed mutated messages and manifests to everything that reads them: INPUTS=200000 SECONDS= SEED=
	@$(BIN)/python -m tests.fuzz.run --keep $(if $(INPUTS),--inputs $(INPUTS)) $(if $(SECONDS),--seconds $(SECONDS)) \
		$(if $(SEED),--seed $(SEED)) $(ARGS)

# The seed fixes the faults and their order, not the moments at which they meet the processes.
chaos: $(STAMP) ## kill, pause, cut off and damage a fleet of real processes, then judge what happened: SECONDS=600 SEED=
	@$(BIN)/python -m tests.chaos.run $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

# Seeds that once failed go first when nothing else is asked for. A failure prints the line that runs it again.
sim: $(STAMP) ## run fleets in a simulation, from seeds: SEED= (one), SEEDS= (how many), STEPS=20000000 JOBS=2
	@$(BIN)/python -m everynode.testing.simulation $(if $(SEED),--seed $(SEED),--corpus tests/simulation/corpus.txt) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(STEPS),--steps $(STEPS)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

kill-workers: $(STAMP) ## kill a worker every two seconds while 5,000 nodes are covered
	@$(BIN)/python -m tests.chaos.kill_workers $(ARGS)

# Every python3.11 to python3.15 on the PATH verifies it, or those that PYTHONS names.
recorded: $(STAMP) ## record 1,213 real nodes while workers are killed, then decide it again with every Python: PYTHONS=
	@$(BIN)/python -m tests.recordings.recorded $(ARGS)

# Not in `make clean`: it is shared by all checkouts, and it takes long to build.
control-plane: $(STAMP) ## build a Kubernetes control plane to test with, once, into ~/.cache/everynode; takes Go
	@$(BIN)/python -m tests.kubernetes.control_plane.build

# Make needs a .venv to lock and a lock to make a .venv, so this one does not ask for the stamp. Keeps
# the versions that are locked already; to raise them: make lock ARGS=--upgrade
lock: ## write requirements/*.txt anew from pyproject.toml
	mkdir -p requirements
	$(UV_COMPILE) $(ARGS) --extra kubernetes --output-file requirements/run.txt
	$(UV_COMPILE) $(ARGS) --all-extras --output-file requirements/dev.txt

clean: ## remove everything that is not in git, .venv included
	rm -rf .venv build dist .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache .benchmarks
	find engine adapters tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
