# The two commands of a newcomer are `make demo` and `make test`; each makes .venv from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
CONSUMERS := .venv/consumers

.PHONY: links fuzz demo test check bench format clean fastmri conformance reliability scale

$(VENV)/.base: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: $(VENV)/.base
	$(BIN)/rephase demo $(DEMO)

test: $(VENV)/.test
	$(BIN)/python -m pytest

# fastmri without what only its training scripts need (torchvision, lightning): 20 s, 150 MB
$(VENV)/.fastmri: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,conformance]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps fastmri==0.3.0
	touch $@

fastmri: $(VENV)/.fastmri

$(CONSUMERS)/.ready: $(VENV)/.test
	$(PYTHON) -m venv $(CONSUMERS)
	$(CONSUMERS)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 deepinv mrpro
	touch $@

conformance: $(VENV)/.fastmri $(CONSUMERS)/.ready
	$(BIN)/python -m pytest tests/exports
	$(BIN)/python tests/consumers/make_export.py $(CONSUMERS)/export
	$(CONSUMERS)/bin/python tests/consumers/consumers.py $(CONSUMERS)/export

# the package as one tree of links, since mypy does not follow the mapping of folders in pyproject.toml
links:
	rm -rf .links
	mkdir -p .links/rephase
	ln -s $(addprefix $(CURDIR)/,$(wildcard augment/*) diffusion cluster manifests) .links/rephase

check: $(VENV)/.test links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# every case of every fault and 10,000 fuzz cases: hours; the table goes into the document
reliability: $(VENV)/.test
	$(BIN)/python -m tests.reliability -o augment/RELIABILITY.md

bench: $(VENV)/.base
	$(BIN)/rephase bench sampler
	$(BIN)/rephase bench build
	$(BIN)/rephase bench loader

scale: $(VENV)/.base
	$(BIN)/python -m tests.benchmarks.scale

# 10,000 hostile files, each in a child under limits; a few minutes to an hour. CASES=N SEED=S for others.
fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz --cases $(or $(CASES),10000) --seed $(or $(SEED),1)

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
