# `make help` lists what there is. Everything runs in .venv, which the first target that needs it creates.

PYTHON ?= python3
RUN := .venv/bin/python

.DEFAULT_GOAL := help
# The checks of `test` run in their order, the cheap ones first, under -j too.
.NOTPARALLEL:
# Tests start hundreds of interpreters, each of which would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo test lint types docs units unit unit-patched soak siege rolling figures bench venv clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 14
	@echo "PYTHON=python3.12 make ... chooses the interpreter, make unit ARGS='-k name' passes arguments to pytest."

demo: venv ## deploy a small web application, look at it, and stop it
	@$(RUN) examples/demo.py

test: lint types docs units ## everything that CI runs

lint: venv ## ruff: mistakes and formatting
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

types: venv ## mypy --strict on the package
	@$(RUN) -m mypy

docs: venv ## build the documentation into docs/_build/html; a warning is an error
	@$(RUN) -m sphinx -EW --keep-going -q -b html docs docs/_build/html

units: venv ## the tests in both ways at once, plain and monkey-patched
	@$(RUN) tests/run_both.py $(ARGS)

unit: venv ## the tests, and the samples of README and docs
	@$(RUN) -m pytest $(ARGS)

unit-patched: venv ## the same tests after gevent.monkey.patch_all()
	@$(RUN) -m dploylib.testing $(ARGS)

soak: venv ## ten minutes of mixed load, most of it hostile, against one service; ARGS="--minutes 60 --seed 1"
	@$(RUN) -m tests.hard.soak $(ARGS)

siege: venv ## how long authorized clients wait while 10,000 strangers are at the door; ARGS="--seconds 60"
	@$(RUN) -m tests.hard.siege $(ARGS)

rolling: venv ## clients that never pause, while a daemon is reloaded, upgraded and killed; ARGS="--seconds 60"
	@$(RUN) -m tests.hard.rolling $(ARGS)

figures: venv ## whether a service tells what its clients know of 100,000 requests; ARGS=--answers: how soon
	@$(RUN) -m tests.hard.figures $(ARGS)

bench: venv ## measure dploylib beside hand-written loops and other libraries; ARGS=--quick takes two minutes
	@$(RUN) -m pip --disable-pip-version-check install --quiet -r benchmarks/requirements.txt
	@$(RUN) -m benchmarks $(ARGS)

venv: # .venv with requirements.txt and this checkout, made or mended when it needs to be
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: dploylib needs Python 3.10 or newer" >&2; exit 1; }
	@$(PYTHON) .ci/prepare_venv.py

clean: ## remove .venv and everything that was built
	rm -rf .venv build dist *.egg-info docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
