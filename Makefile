# Every target sets up what it needs in .venv; `make PYTHON=python3.13 …` chooses the interpreter.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(BIN)/ruff# comes with the extra `dev`, whoever installed it

.PHONY: help setup cluster test check sim chaos bench bench-versus bench-client bench-scale bench-peers interop clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: $(READY)  ## a virtual environment in .venv with everything

GROUPS ?= 1
cluster: $(READY)  ## three brokers and a name server on this machine, until Ctrl-C: GROUPS=…
	@$(BIN)/dledger cluster up --data data/cluster$(if $(filter-out 1,$(GROUPS)),-$(GROUPS)) --groups $(GROUPS)

check: $(READY)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check      ## the checks, then every test
	$(BIN)/python -m pytest

SEED ?= 1
RUNS ?= 200
WHOLE_RUNS ?= 10
SIM_LENGTH = $(if $(HOURS),--hours $(HOURS),--runs $(RUNS))
sim: $(READY)    ## simulated clusters under faults: SEED=… RUNS=… or HOURS=…, WHOLE=1, MUTANTS=1
	$(if $(WHOLE),,$(BIN)/python -m chaos.sim --seed $(SEED) --profile all --members 3 5 $(SIM_LENGTH))
	$(BIN)/python -m chaos.sim.nodes --seed $(SEED) --members 3 5 \
		$(if $(WHOLE),$(SIM_LENGTH),--runs $(WHOLE_RUNS))
	$(if $(MUTANTS),$(BIN)/python -m chaos.sim.mutants)

SCENARIO ?= leader-kills
CHAOS = $(if $(TIMES),--times $(TIMES)) $(if $(NODES),--nodes $(NODES)) \
	$(if $(ALL),--all) $(if $(ONE_WAY),--one-way) $(if $(WHO),--who $(WHO)) \
	$(if $(filter-out 1,$(GROUPS)),--groups $(GROUPS))
chaos: $(READY)  ## hurt a real cluster under load: SCENARIO=… TIMES=… NODES=… GROUPS=… (docs/chaos.md)
	$(BIN)/python -m chaos $(SCENARIO) $(CHAOS)

bench: $(READY)  ## throughput and latency of a local cluster, both flush policies
	$(BIN)/python -m bench

RUN ?= queues
bench-scale: $(READY)  ## whether size costs anything: RUN=queues, connections, log or soak (needs cc)
	$(BIN)/python -m bench.scale $(RUN)

bench-versus: $(READY)  ## this checkout beside another, in turn: WITH=../other (needs cc, and its environment)
	$(BIN)/python -m bench.versus $(WITH)

bench-client: $(READY)  ## the processor time a send costs the client, under Trio and asyncio
	$(BIN)/python -m bench.client

ROUNDS ?= 3
BENCH_PEERS = --rounds $(ROUNDS) $(if $(PEERS),--peers $(PEERS)) \
	$(if $(WORKLOADS),--workloads $(WORKLOADS)) $(if $(SCALE),--scale $(SCALE)) \
	$(if $(OUT),--out $(OUT)) $(if $(CACHE),--cache $(CACHE))
bench-peers: $(READY)  ## ours and others (RocketMQ, RabbitMQ, NATS) in turn: ROUNDS=… PEERS=… WORKLOADS=… SCALE=… OUT=…
	$(BIN)/python -m bench.peers $(BENCH_PEERS)

INTEROP = $(if $(CLIENTS),--clients $(CLIENTS)) $(if $(SCENARIOS),--scenarios $(SCENARIOS)) \
	$(if $(CHECKS),--checks $(CHECKS))
interop: $(READY)  ## unmodified Apache clients against a cluster (needs go, node, mvn): GROUPS=… CLIENTS=… SCENARIOS=… CHECKS=…
	$(BIN)/python tests/interop/run.py --groups $(GROUPS) $(INTEROP)

clean:           ## remove caches and the environment; keeps data/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
