# One screen of commands; `make` alone prints them. Everything runs from .venv, which `setup` makes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BUILT  := $(VENV)/.built
PURE   := tests/proxy/policy tests/proxy/link tests/fuzz $(filter-out %/test_canaries.py %/test_oracle_at_scale.py,\
          $(wildcard tests/proxy/worker/test_*.py tests/proxy/worker/http1/test_*.py)) \
          tests/proxy/worker/http1/properties

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-pure fuzz soak lint fmt type bench image lock clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: $(STAMP)  ## make .venv with the locked dependencies

build: $(BUILT)  ## compile the hot path (without a compiler: the same source runs as Python)

$(BUILT): $(STAMP) setup.py proxy/native.py $(wildcard $(addsuffix /*.p*,proxy/link proxy/policy proxy/worker proxy/worker/http1))
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $(BUILT)

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("anyport needs Python 3.11 or newer: make setup PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: build      ## the main job, live, without AWS: make demo ARGS="--for 20s"
	$(BIN)/anyport demo $(ARGS)

test: build      ## the whole test suite: make test ARGS="-k wire -x"
	$(BIN)/python -m pytest $(ARGS)

fuzz: setup      ## a minute of hostile bytes at the parsers: make fuzz ARGS="-max_total_time=600"
	$(BIN)/python tests/fuzz/http1.py $(ARGS)

soak: build      ## half an hour of load, aborts and churn: make soak ARGS="--for 2m"
	$(BIN)/python -m tests.soak $(ARGS)

test-pure: setup ## the tests of the hot path on its source, not compiled
	ANYPORT_PURE_PYTHON=1 $(BIN)/python -m pytest $(PURE) $(ARGS)

lint: setup type ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

fmt: setup       ## mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: setup      ## mypy --strict
	$(BIN)/mypy
	$(BIN)/mypy -p bench

bench: build     ## side by side with the peers that are installed
	$(BIN)/python -m bench.run $(ARGS)

image:           ## the container image
	docker build --tag anyport .

lock:            ## pin the newest allowed versions, with hashes
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --upgrade --no-header pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --upgrade --no-header pyproject.toml --extra simulator --group dev -o requirements-dev.lock

clean:           ## remove what setup made
	rm -rf $(VENV) build *.egg-info
	find proxy -name '*.so' -delete
