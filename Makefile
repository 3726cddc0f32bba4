# A bare Debian machine needs git and make only; `make help` lists what there is.
SHELL := /bin/bash
VENV ?= .venv
BENCH_VENV ?= .venv-bench
BENCH_ARGS ?=
SEEDS ?= 3
ROWS ?= 1-66
BROKERS ?= sqlite,redis,rabbitmq
CRASH_ARGS ?=
JOBS ?= 1000000
SOAK_JOBS ?= 3000000
SOAK_ARGS ?=
PYTEST_ARGS ?=
TEST_PROCESSES ?=
export TEST_PROCESSES
FUZZ_ARGS ?=
BIN := $(VENV)/bin
SOURCES := queuelib backends/queuelib_memory backends/queuelib_sqlite backends/queuelib_redis backends/queuelib_rabbitmq
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: help demo test unit check lint doctest format docs build fuzz bench-peers crash crash-quick crash-peers soak bounds clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.science ## install what the demos need, then run both: no server, no setup
	$(BIN)/queuelib demo ga
	$(BIN)/queuelib demo pi

test: $(VENV)/.dev ## every test, on SQLite, Redis and RabbitMQ (containers, else local servers); PYTEST_ARGS=… for pytest, TEST_PROCESSES=…
	VENV=$(VENV) QUEUELIB_TEST_REQUIRE=1 scripts/with-servers -- $(BIN)/python tests/rounds.py $(PYTEST_ARGS)

unit: $(VENV)/.dev ## the tests that need no server
	$(BIN)/python tests/rounds.py tests/unit $(PYTEST_ARGS)

check: lint unit doctest ## format, lint, types, import layers, doctests, docs, unit tests

lint: $(VENV)/.dev ## the same without tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH= $(BIN)/mypy $(SOURCES) tests
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	if [ -f mkdocs.yml ]; then $(BIN)/mkdocs build --strict --quiet; fi

doctest: $(VENV)/.dev ## the examples in docstrings
	$(BIN)/python -m pytest --doctest-modules -p no:randomly $(SOURCES)

format: $(VENV)/.dev ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev ## build the documentation into site/
	$(BIN)/mkdocs build --strict

crash: $(VENV)/.dev ## the fault rows, into docs/reliability.md: SEEDS=3 ROWS=1-66 BROKERS=sqlite,redis,rabbitmq; CRASH_ARGS='--list', '--help'
	VENV=$(VENV) QUEUELIB_TEST_WAY=local scripts/with-servers -- $(BIN)/python -m tests.crash --rows $(ROWS) --seeds $(SEEDS) --brokers $(BROKERS) \
		--record docs/reliability/rows-$$(date +%F).jsonl $(CRASH_ARGS); status=$$?; $(BIN)/python -m tests.crash.report; exit $$status

crash-quick: $(VENV)/.dev ## the fault rows that guard every change, with a lease of 1.5 s
	VENV=$(VENV) QUEUELIB_TEST_WAY=local scripts/with-servers -- $(BIN)/python -m tests.crash --quick $(CRASH_ARGS)

soak: $(VENV)/.dev ## a fault a minute, and nothing may grow: SOAK_JOBS=3000000 BROKERS=sqlite,redis,rabbitmq SOAK_ARGS='--help'
	$(BIN)/python -m tests.crash.soak --jobs $(SOAK_JOBS) --brokers $(BROKERS) --record docs/reliability/soak-$$(date +%F).json $(SOAK_ARGS)
	$(BIN)/python -m tests.crash.report

bounds: $(VENV)/.dev ## a million waiting jobs, failures, results too large: JOBS=1000000 BROKERS=sqlite,redis,rabbitmq
	$(BIN)/python -m tests.crash.bounds --delayed $(JOBS) --brokers $(BROKERS) --record docs/reliability/bounds-$$(date +%F).json
	$(BIN)/python -m tests.crash.report

build: $(VENV)/.dev ## wheel and source distribution into dist/
	$(BIN)/python -m build --outdir dist .

fuzz: $(VENV)/.dev ## mutated inputs for everything that reads foreign bytes or text; FUZZ_ARGS='--count 1000000 --seed 1'
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

bench-peers: $(BENCH_VENV)/.peers ## the same work on queuelib and its peers, into docs/benchmarks.md; BENCH_ARGS='--quick', '--help'
	VENV=$(BENCH_VENV) QUEUELIB_TEST_WAY=local scripts/with-servers -- $(BENCH_VENV)/bin/python -m tests.benchmarks.peers $(BENCH_ARGS)

crash-peers: $(BENCH_VENV)/.peers ## the same faults on queuelib and its peers, into docs/reliability/; CRASH_ARGS='--runs 5', '--help'
	$(BENCH_VENV)/bin/python -m tests.crash.peers $(CRASH_ARGS)

clean: ## remove what the other targets made
	rm -rf .venv .venv-* build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	python=$$(scripts/find-python) && "$$python" -m venv $(VENV)

$(VENV)/.science: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[science]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@

$(BENCH_VENV)/.peers: pyproject.toml tests/benchmarks/peers/requirements.txt
	[ -x $(BENCH_VENV)/bin/python ] || { python=$$(scripts/find-python) && "$$python" -m venv $(BENCH_VENV); }
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/benchmarks/peers/requirements.txt
	@touch $@
