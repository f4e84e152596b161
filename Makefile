# make study   set up .venv, run the default study on the bundled reasoner, say where the report is
# make test    set up .venv, then lint, types, contracts and tests
# make fuzz    read a million mutated files of every kind; any fault fails it
# make chaos   disturb studies at random moments for 20 minutes, and compare their rows
# make recovery  the same with the recovery libraries, then train pruned reasoners and measure them
#
# PYTHON=...   an interpreter, 3.11 or 3.12       VENV=...     another environment folder
# STUDY=...    options for `prunescope study`     TESTS=...    options for pytest
# FUZZ=...     options for `python -m tests.fuzz`, such as "--minutes 30 --seed 1"
# CHAOS=...    options for `python -m tests.chaos`, such as "--minutes 5"
# RECOVERY=... options for `prunescope recover-study`
# HYPOTHESIS_PROFILE=random  property tests draw new examples, and more of them
# PIP=...      options for pip, such as an index that has the CPU build of torch (a tenth of the size)

SHELL := bash
VENV ?= .venv
BIN := $(VENV)/bin
PIP ?=
STUDY ?=
RECOVERY ?=
TESTS ?=
FUZZ ?=
CHAOS ?=
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { echo $$p; break; }; done)

.PHONY: help study recovery test fuzz chaos lint clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 with venv found; name one: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The stamps make a second run quick: pip is asked again only when pyproject.toml changed.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-recovery: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP) -e '.[recovery]'
	@touch $@ $(VENV)/.installed

study: $(VENV)/.installed
	$(BIN)/prunescope study $(STUDY)

recovery: $(VENV)/.installed-recovery
	$(BIN)/prunescope recover-study $(RECOVERY)

# Every check runs, the tests last; one that failed fails the target.
test: $(VENV)/.installed-dev
	@failed=; \
	for check in "ruff check" "ruff format --check" "pyright --pythonpath $(BIN)/python" "lint-imports"; do \
		echo "== $$check"; $(BIN)/$$check || failed="$$failed [$$check]"; \
	done; \
	echo "== pytest"; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 $(TESTS) || failed="$$failed [pytest]"; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz --cases 1000000 $(FUZZ)

chaos: $(VENV)/.installed-dev
	$(BIN)/python -m tests.chaos --minutes 20 $(CHAOS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
