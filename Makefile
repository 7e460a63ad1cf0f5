# `make` alone prints what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# Converts to LiteRT; it sees the packages of $(VENV), so that it holds little of its own.
LITERT_VENV := .venv-litert
LITERT_STAMP := $(LITERT_VENV)/.stamp
# More options for pytest, for example: make test PYTEST_ARGS="-k verdict -x"
PYTEST_ARGS ?=
MIN_COVERAGE := 90
SOURCES := src tests images supply $(wildcard benchmarks examples components pipelines)

# The demo needs less than development does. An environment that already holds more is used as it is.
DEMO_VENV := $(if $(wildcard $(STAMP)),$(VENV),.venv-demo)
DEMO_STAMP := $(DEMO_VENV)/.stamp

# No library reports home, whichever target runs.
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export GX_ANALYTICS_ENABLED := false

# One thread: latency is compared side by side, and test workers would fight for the cores.
TEST := OMP_NUM_THREADS=1 REPRUNE_LITERT_PYTHON=$(CURDIR)/$(LITERT_VENV)/bin/python $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo-env demo chromium helm axe actionlint images test test-fast coverage test-deep test-containers test-chart-security dist sbom lock check lint format generate clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-19s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: $(STAMP) ## create .venv with everything needed for development

# What is locked, by digest.
LOCKED := pyproject.toml constraints.lock supply/torch-cpu.lock supply/packages.json supply/install.sh
HASHED := -m pip install --require-hashes --no-deps

$(STAMP): $(LOCKED)
	PYTHON=$(PYTHON) supply/install.sh $(VENV)
	touch $@

$(LITERT_STAMP): $(STAMP) constraints-litert.lock
	test -x $(LITERT_VENV)/bin/python || $(PYTHON) -m venv $(LITERT_VENV)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(LITERT_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main.pth"
	$(LITERT_VENV)/bin/python $(HASHED) -r constraints-litert.lock
	touch $@

demo-env: $(DEMO_STAMP) ## create .venv-demo with what the local pipeline needs (or reuse .venv)

.venv-demo/.stamp: $(LOCKED)
	PYTHON=$(PYTHON) supply/install.sh .venv-demo local
	touch $@

demo: demo-env ## run the whole pipeline once, on the default example
	PATH="$(CURDIR)/$(DEMO_VENV)/bin:$$PATH" $(DEMO_VENV)/bin/python -m reprune.doors.demo

# The tests of the HTML report open it in a real browser.
chromium:
	@.ci/chromium.sh

# The tests of the chart render it with a pinned Helm.
helm:
	@.ci/helm.sh >/dev/null

# The tests of the HTML report ask axe-core who could not read it.
axe:
	@.ci/axe.sh >/dev/null

# The tests of the workflows ask actionlint.
actionlint:
	@.ci/actionlint.sh >/dev/null

test: env $(LITERT_STAMP) chromium helm axe actionlint ## run the full test suite
	$(TEST) $(PYTEST_ARGS)

test-fast: env $(LITERT_STAMP) helm actionlint ## run the tests that take less than half a second, two at a time
	$(TEST) -m "not slow" -n 2 $(PYTEST_ARGS)

# Tracing slows the tests to less than half their speed, those of the judge most: not at every commit.
coverage: env $(LITERT_STAMP) chromium helm axe ## run the full test suite, traced; fails below MIN_COVERAGE
	$(TEST) -n 2 --dist worksteal --cov --cov-report=term --cov-fail-under=$(MIN_COVERAGE) $(PYTEST_ARGS)

# REPRUNE_DEEP=1 is read by the tests: containers, kills, large counts of mutants and examples.
test-deep: env $(LITERT_STAMP) chromium helm axe ## run all at full depth, then mutation testing of what decides
	REPRUNE_DEEP=1 $(TEST) --timeout=3600 $(PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutation

test-containers: env ## build the images without a registry, and run the pipeline in them (root; ~5 GB)
	@.ci/docker.sh install
	REPRUNE_CONTAINERS=1 $(TEST) --timeout=3600 tests/containers $(PYTEST_ARGS)

# Large, and it pins much: an environment of its own.
.venv-checkov/.stamp: .ci/checkov.lock
	test -x .venv-checkov/bin/python || $(PYTHON) -m venv .venv-checkov
	.venv-checkov/bin/python $(HASHED) -r $<
	touch $@

test-chart-security: .venv-checkov/.stamp ## ask checkov about what the chart renders
	CHECKOV=.venv-checkov/bin/checkov .ci/checkov.sh

# What it is built on and where it goes are variables: images/build.sh and images/README.md name them.
images: ## build the images that can be built here (TENSORRT_BASE=... adds tensorrt)
	@images/build.sh control compress $(if $(TENSORRT_BASE),tensorrt)

# The same commit gives the same bytes, wherever and whenever it is built. An archive of sources has no git:
# its PKG-INFO carries the commit's time, as all that is in it.
dist: env ## build the wheel and the archive of sources, and the bill of materials, into dist/
	epoch=$$(date -r PKG-INFO +%s 2>/dev/null || git log -1 --format=%ct) && \
	  SOURCE_DATE_EPOCH=$$epoch $(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m supply.sbom dist/sbom.cdx.json

sbom: env ## write dist/sbom.cdx.json, all that is locked, in CycloneDX
	$(BIN)/python -m supply.sbom dist/sbom.cdx.json

# Asks whatever pip is configured to ask. CONTRIBUTING.md says what must be installed first.
lock: ## write the locks and docs/licences.md again, after a change of constraints*.txt
	$(BIN)/python -m supply.lock --installed $(wildcard $(LITERT_VENV)/lib/python3*/site-packages) $(INSTALLED)
	$(BIN)/python -m supply.licences

lint: env ## check format, style, types and import directions
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy --strict src benchmarks
	$(BIN)/lint-imports

# A download and a browser need no core: they come beside the types, which need one.
check: env ## everything CI checks: lint, generated files are fresh, tests
	$(MAKE) --no-print-directory -j 3 lint $(LITERT_STAMP) chromium helm axe
	$(BIN)/python -m reprune.doors.generate --check
	$(TEST) -n 2 --dist worksteal --durations=30 --durations-min=15 $(PYTEST_ARGS)

format: env ## put the code in the one format, and repair what ruff can repair
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

generate: env ## write every generated file again (schemas, reference pages, pipelines)
	$(BIN)/python -m reprune.doors.generate

clean: ## remove caches and build output; environments and .reprune/ stay
	rm -rf build dist htmlcov mutants .coverage .coverage.* junit.xml
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
