# `make demo` and `make test` set everything up from nothing. A Python 3.10 to 3.13 is found here;
# name another with PYTHON=...

PYTHON ?= $(shell for v in 3.11 3.12 3.13 3.10; do \
	for p in python$$v python3 python $$HOME/.pyenv/versions/$$v*/bin/python; do \
	  command -v "$$p" >/dev/null 2>&1 && "$$p" -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] != "'$$v'")' 2>/dev/null \
	    && { echo "$$p"; exit 0; }; done; done)
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# Whole files go to a process each, the slow ones first (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: help demo test test-long coverage format lint type unit setup clean

help:
	@echo "make demo       set up, then train, adapt, attack, explain and export on real digits"
	@echo "make test       set up, then lint, types and tests"
	@echo "make test-long  the tests that make test leaves out because they take longest"
	@echo "make coverage   all tests with branch coverage, which takes a third longer"
	@echo "make format     rewrite the sources in the house style"
	@echo "make clean      remove the environment and all caches; runs/ stays"

demo: setup
	$(BIN)/python -m trainers.demo --workdir=$(DEMO)

test: lint type unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

# What CI runs has to end within twenty minutes.
unit: setup
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

test-long: setup
	$(PYTEST) -m long $(PYTEST_ARGS)

coverage: setup
	$(PYTEST) --cov --cov-report=term

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/installed

# The stamp is last: an installation that was cut off is begun again.
$(VENV)/installed: requirements.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 to 3.13 with venv was found; install one or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@# The pip that Python 3.10 comes with searches for hours where a newer one finds.
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=24"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
