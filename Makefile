# From a clean clone: `make demo` or `make test`; each creates .venv. `make help` lists all targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
CONSUMERS := .venv/consumers
# uv where the environment has it, as in CI: it is several times as fast as pip
PIP_INSTALL = $(if $(wildcard $(BIN)/uv),$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python,$(BIN)/pip install --quiet --disable-pip-version-check)
# the CI adds --durations and --cpu-limit
TEST_OPTIONS ?=

.PHONY: help demo test check docs links format conformance reliability mutants fuzz bench scale weights figures clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --editable .
	touch $@

# fastmri without torchvision and lightning, which only its training scripts need
$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --editable '.[test,conformance]'
	$(PIP_INSTALL) --no-deps fastmri==0.3.0
	touch $@ $(VENV)/.base

$(CONSUMERS)/.ready: $(VENV)/.test
	$(PYTHON) -m venv $(CONSUMERS)
	$(CONSUMERS)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 deepinv mrpro
	touch $@

demo: $(VENV)/.base  ## build a small corpus from real volumes, with a report
	$(BIN)/rephase demo $(DEMO)

# a file of tests stays in one process and keeps its fixtures; tests/conftest.py puts the longest files first; half of the
# time is spent waiting for other processes, so three share two cores; more threads than cores would only wait
test: $(VENV)/.test  ## run the tests in three processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(TEST_OPTIONS)

check: $(VENV)/.test links  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.test  ## build the documentation site in build/site; warnings are errors
	$(BIN)/python -m tests.documentation

# the package as one tree of links, since mypy does not follow the mapping of folders in pyproject.toml
links:
	@rm -rf .links
	@mkdir -p .links/rephase
	@ln -s $(addprefix $(CURDIR)/,$(wildcard augment/*) diffusion cluster manifests) .links/rephase

format: $(VENV)/.test  ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

conformance: $(CONSUMERS)/.ready  ## read an export with fastmri, deepinv and mrpro
	$(BIN)/python -m pytest tests/exports
	$(BIN)/python tests/consumers/make_export.py $(CONSUMERS)/export
	$(CONSUMERS)/bin/python tests/consumers/consumers.py $(CONSUMERS)/export

reliability: $(VENV)/.test  ## run every case of every fault and 10,000 fuzz cases (hours); update augment/RELIABILITY.md
	$(BIN)/python -m tests.reliability -o augment/RELIABILITY.md

# all of them take hours; SAMPLE=N tries N of them
mutants: $(VENV)/.test  ## break the code in one place at a time, see which tests notice; update augment/RELIABILITY.md
	$(PIP_INSTALL) --editable '.[test,mutants]'
	$(BIN)/python -m tests.mutants $(if $(SAMPLE),--sample $(SAMPLE)) -o augment/RELIABILITY.md

fuzz: $(VENV)/.test  ## read 10,000 hostile files, each in a child process under limits (CASES=N, SEED=S)
	$(BIN)/python -m tests.fuzz --cases $(or $(CASES),10000) --seed $(or $(SEED),1)

bench: $(VENV)/.base  ## measure sampling, building and loading on this machine
	$(BIN)/rephase bench sampler
	$(BIN)/rephase bench build
	$(BIN)/rephase bench loader

scale: $(VENV)/.base  ## measure the overhead per volume and the planning of a million rows
	$(BIN)/python -m tests.benchmarks.scale

# DATA is a folder with the files that tests/benchmarks/weights_data.py names
weights: $(VENV)/.test  ## train the Apache-2.0 weights from nothing, within an hour or two (DATA=FOLDER)
	$(BIN)/python -m tests.benchmarks.weights_data $(DATA) runs/data
	OMP_NUM_THREADS=1 $(BIN)/rephase train diffusion/weights/permissive-teacher.toml
	OMP_NUM_THREADS=1 $(BIN)/rephase distill diffusion/weights/permissive.toml

# AGAINST=REVISION for a second column
figures: $(VENV)/.test  ## print sizes, imports and start-up times of the code
	$(BIN)/python -m tests.benchmarks.figures $(if $(AGAINST),--against $(AGAINST))

clean:  ## remove the environment and all build output
	rm -rf $(VENV) .links build *.egg-info .mypy_cache .ruff_cache .pytest_cache
