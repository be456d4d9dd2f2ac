# `make help` lists the targets. Every one creates or updates the virtual environment it needs.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PIP_ARGS ?=
# More workers than this gain little, for JAX itself is multi-threaded, and each takes about 1 GB.
PYTEST_WORKERS ?= 4
# Every process gets tests that follow each other, for those of a file share what is compiled; one
# that is done early takes half of what another still has to do.
DISTRIBUTION := --dist worksteal
# Slow tests, and all cases of the others, run in CI (which sets CI) and on demand: SLOW=1. SLOW=0
# leaves them out in any case. A quarter of the cases, the first of every test among them, takes six
# minutes on two cores; the first run on a machine has everything to compile, and takes longer.
SLOW ?= $(CI)

BIN := $(VENV)/bin
TORCH_VENV ?= .venv-torch
TORCH_PIP = $(TORCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
FAST_ONLY := $(if $(filter-out 0 false no,$(SLOW)),,-m "not slow" --one-in=4)

# XLA has its own threads. Those of the OpenBLAS under JAX's LAPACK calls compete with them for the
# cores and wait by spinning: a Cholesky factorisation can take a hundred times longer with them.
export OPENBLAS_NUM_THREADS ?= 1

# What XLA compiled is kept between runs, for all clones of a user: test time is mostly compile time.
# The default threshold of 1 s keeps nothing of what tests compile; 0.02 s keeps all but the trivial.
test: export JAX_COMPILATION_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/jaxrobust/jax
test: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.02
# The version is pinned, so do not look for a newer one at every run.
lint: export PYRIGHT_PYTHON_IGNORE_WARNINGS ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  PYTHON=python3.12  the Python (3.11 or newer) a new $(VENV) is made with'
	@echo '  ARGS="..."         passed on by demo, test and bench'
	@echo '  SLOW=1             test: the slow tests too, and all cases'
	@echo '  PYTEST_WORKERS=1   test: at most so many processes (default: one per core, at most $(PYTEST_WORKERS))'

demo: $(VENV)/.stamp-experiments  ## the tour of experiments; writes results/ and says where the report is
	$(BIN)/python -m experiments $(ARGS)

test: $(VENV)/.stamp-dev  ## the tests, in parallel: fast ones, a quarter of their cases; all in CI or with SLOW=1
	$(BIN)/python -m pytest -n logical --maxprocesses $(PYTEST_WORKERS) $(DISTRIBUTION) $(FAST_ONLY) $(ARGS)

lint: $(VENV)/.stamp-dev  ## format, lint and types; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: export JAXROBUST_TORCH_PYTHON ?= $(CURDIR)/$(TORCH_VENV)/bin/python
bench: $(VENV)/.stamp-dev $(TORCH_VENV)/.stamp  ## the benchmarks, each beside its rival
	$(BIN)/python -m experiments.benchmarks $(ARGS)

clean:  ## removes caches and build output in this folder; keeps the environments and results/
	rm -rf .jax_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . \( -name '.venv*' -o -name results -o -name .git \) -prune -o \
	  -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of extras: pip runs again only when pyproject.toml is newer.
$(VENV)/.stamp-%: pyproject.toml | $(BIN)/python
	@$(call require_python,$(BIN)/python,remove $(VENV) and run make again with PYTHON=python3.12 or the like)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null  # uv leaves pip out
	@echo "installing jaxrobust[$*] into $(VENV) (the first time takes a few minutes) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --editable '.[$*]'
	@touch $@
	@if [ '$*' = dev ]; then touch $(VENV)/.stamp-experiments; fi  # dev contains experiments

# The rivals that run on PyTorch, in an environment of their own. BackPACK asks for torchvision, which
# it does not use here and which would bring another PyTorch. Without them the benchmarks still run.
$(TORCH_VENV)/.stamp: | $(BIN)/python
	$(PYTHON) -m venv $(TORCH_VENV)
	@echo "installing PyTorch and its rivals into $(TORCH_VENV) ..."
	@$(TORCH_PIP) 'torch==2.13.0' && $(TORCH_PIP) 'torch==2.13.0' opacus einops packaging \
	  && $(TORCH_PIP) --no-deps backpack-for-pytorch unfoldnd \
	  && $(TORCH_PIP) 'torch==2.13.0' pytorch-metric-learning \
	  && $(TORCH_PIP) --no-deps pyautoattack torchattacks && touch $@ \
	  || echo 'they cannot be installed here: the table will say so'

$(BIN)/python:
	@$(PYTHON) -c '' 2>/dev/null || { echo 'error: `$(PYTHON)` is not there or does not run; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python' >&2; exit 1; }
	@$(call require_python,$(PYTHON),name a newer one: make PYTHON=python3.12 or the like)
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo 'error: $(PYTHON) cannot make virtual environments: its `venv` or `ensurepip` module is missing (on Debian and Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@rm -f $(VENV)/.stamp-*
	$(PYTHON) -m venv $(VENV)

# $(1): a Python; $(2): what to do if it is too old.
define require_python
$(1) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "error: jaxrobust needs Python 3.11 or newer, $(1) is %d.%d; $(2)" % sys.version_info[:2])'
endef
