# make run       a virtual environment in .venv, and the first result
# make test      the same, linters, types, import rules, and the tests that take seconds
# make test-all  the slow tests as well: everything that CI checks
# Add overrides to a run with ARGS: make run ARGS="reward=sparse seed=1"

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TESTED_TORCH := 2.13.0
TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$p" -c '$(NEW_ENOUGH)' 2>/dev/null && echo "$$p" && break; done)

.PHONY: run test test-all check clean

run: $(VENV)/.installed
	$(BIN)/python -m align method=ppo reward=dense $(ARGS)

test: check
	$(TESTS) -m "not slow"

test-all: check
	$(TESTS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .*_cache

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "align needs Python 3.11 or newer: none found as python3 or python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: install python3-venv (apt-get install python3-venv)"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# The tested PyTorch first: the rest then keeps it.
$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$(TESTED_TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,dashboards,quantization,studies,tensorboard,wandb]"
	@touch $@
