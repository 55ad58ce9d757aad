# Everything one does with the project. `make setup` is implied by all that need it and is instant when nothing changed;
# `make run` installs less: what a node needs, and no tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVER ?= bytemq
FUZZ_SECONDS ?= 3600
SEEDS ?= 10000
SHAPES ?= 3000
JOBS ?= 2
DATA ?= ./data
LISTEN ?= 127.0.0.1:9092
ARGS ?=
WORKLOAD ?= produce-16k
QUICK ?=
ONLY ?=
SOURCES ?= .suites
CHAOS_SECONDS ?= 3600
CHURN_MINUTES ?= 60
OLD ?= 6ff5a54

.PHONY: setup run cluster test interop upgrade-test compose suites ecosystem simulate shapes chaos churn demo bench bench-kafka bench-table profile fuzz lint format types check lock clean help

help:
	@echo "make run      start a node on LISTEN=$(LISTEN) with its data in DATA=$(DATA)"
	@echo "make cluster  etcd, an S3 server and three brokers in three zones, their files in ./dev-cluster"
	@echo "make test     every test that needs Python only"
	@echo "make interop  the tests that need Java, Maven, Go, Node.js and kcat as well"
	@echo "make upgrade-test  a cluster of an older program, of commit OLD=$(OLD), upgraded under traffic"
	@echo "make compose  deploy/compose.yaml with its containers killed; needs a Docker engine"
	@echo "make suites   the test suites of four public clients, checked out in SOURCES=$(SOURCES); see docs/compatibility.md"
	@echo "make ecosystem  Kafka Streams, Connect, MirrorMaker 2, Flink and Spark at length"
	@echo "make simulate  SEEDS=$(SEEDS) of each simulated world, by JOBS=$(JOBS) processes"
	@echo "make shapes   SHAPES=$(SHAPES) drawn logs, the same before and after conversion and merges, by JOBS=$(JOBS) processes"
	@echo "make chaos    a cluster hurt by seed under unmodified clients, for CHAOS_SECONDS=$(CHAOS_SECONDS)"
	@echo "make churn    objects made and let go in every way for CHURN_MINUTES=$(CHURN_MINUTES), and then an audit of the store"
	@echo "make demo     336,776 flights through the whole path, with a kill -9 in the middle"
	@echo "make bench    two minutes of load: throughput, latency, CPU for each request"
	@echo "make bench-table  conversion to Parquet, reading back, size, look-ups"
	@echo "make bench-kafka  bytemq and Apache Kafka side by side: the table in docs/benchmarks; QUICK=1, ONLY=\"names\""
	@echo "make profile  a flame graph of a node under WORKLOAD=produce-16k"
	@echo "make fuzz     fuzz for FUZZ_SECONDS=$(FUZZ_SECONDS) each target"
	@echo "make lint types   what the CI checks besides tests"

INSTALLED_FROM := requirements.lock pyproject.toml setup.py \
  $(wildcard bytemq/protocol/*.c bytemq/protocol/records/*.[ch] bytemq/storage/*/*.c)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

setup: $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bytemq needs Python 3.11 or newer; name one by: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(INSTALLED_FROM) | $(BIN)/python
	$(PIP_INSTALL) -r requirements.lock
	$(PIP_INSTALL) -e '.[test,lint]'
	@touch $(VENV)/.runs $@

$(VENV)/.runs: $(INSTALLED_FROM) | $(BIN)/python
	$(PIP_INSTALL) --constraint requirements.lock -e '.[tables]'
	@touch $@

run: $(VENV)/.runs
	$(BIN)/bytemq start --data $(DATA) --listen $(LISTEN) $(ARGS)

cluster: setup
	$(BIN)/bytemq dev cluster $(ARGS)

# Files side by side, the long ones first: most of them wait for processes that they have started.
test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not interop and not ecosystem and not compose" $(ARGS)

# First the reference itself (are the recorded answers still what Apache Kafka says?), then our server. SERVER=kafka: only the
# reference; cluster, cluster-of-one: `bytemq dev cluster` with three brokers or one, and what `make test` asks of a node as well.
interop: setup
	$(BIN)/python -m tests.interop.tools
ifeq ($(SERVER),bytemq)
	$(BIN)/python -m pytest tests/interop/test_differential.py tests/interop/test_kafka_cli_transcripts.py --server kafka $(ARGS)
endif
	$(BIN)/python -m pytest tests/interop $(if $(findstring cluster,$(SERVER)),,tests/ecosystem -m interop) --server $(SERVER) $(ARGS)
ifeq ($(SERVER),bytemq)
	test -x .interop/bin/minio || GOBIN=$(CURDIR)/.interop/bin go install github.com/minio/minio@latest
	MINIO=$(CURDIR)/.interop/bin/minio $(BIN)/python -m pytest -k minio $(ARGS) \
	  tests/conformance/test_store.py tests/scenarios/cluster/test_cluster_on_s3.py \
	  tests/scenarios/cluster/test_letting_go_on_s3.py tests/scenarios/cluster/test_sql_on_s3.py
endif

# Three brokers of the program of commit OLD, with an environment of its own, become brokers of this one under traffic.
upgrade-test: setup
	test -x .upgrade/$(OLD)/bin/bytemq || { rm -rf .upgrade/$(OLD) && mkdir -p .upgrade/$(OLD)/source && \
	  git archive $(OLD) | tar -x -C .upgrade/$(OLD)/source && $(PYTHON) -m venv .upgrade/$(OLD) && \
	  .upgrade/$(OLD)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --constraint .upgrade/$(OLD)/source/requirements.lock '.upgrade/$(OLD)/source[etcd,s3,tables]'; }
	UPGRADED_FROM=$(CURDIR)/.upgrade/$(OLD)/bin/bytemq \
	  $(BIN)/python -m pytest tests/scenarios/cluster/test_rolling_upgrade.py $(ARGS)

# deploy/compose.yaml for real; skipped, with a word, where no Docker engine answers.
compose: setup
	$(BIN)/python -m pytest tests/compose -rs $(ARGS)

# Programs of the Java and big-data world as wholes, killed and resumed; what is too long for `make interop` as well.
suites: setup
	$(BIN)/python -m tests.suites --sources $(SOURCES) --server $(SERVER) $(ARGS)

ecosystem: setup
	$(BIN)/python -m tests.interop.tools
	$(BIN)/python -m pytest tests/ecosystem --server $(SERVER) $(ARGS)

# A seed that fails is printed with its transcript and replays exactly: make simulate ARGS="--world broker --seed 17".
simulate: setup
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs $(JOBS) $(ARGS)

# Each process draws its share; what fails is shrunk to the smallest log that does.
shapes: setup
	BYTEMQ_SHAPES_SHARES=$(JOBS) BYTEMQ_SHAPES=$$(($(SHAPES) / $(JOBS))) $(BIN)/python -m pytest -q -n $(JOBS) \
	  tests/unit/storage/parquet/test_conversion.py -k no_record_changes --hypothesis-profile exploring $(ARGS)

# Real etcd, S3 server and brokers; seeds are begun for so long. One seed: make chaos ARGS="--seed 17".
chaos: setup
	$(BIN)/python -m tests.chaos --seconds $(CHAOS_SECONDS) $(ARGS)

# On MinIO where there is one (MINIO names its program), else on SeaweedFS.
churn: setup
	$(BIN)/python -m tests.churn --minutes $(CHURN_MINUTES) $(ARGS)

demo: setup
	$(BIN)/python -m tools.demo $(ARGS)

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

bench-table: setup
	$(BIN)/python -m benchmarks.tables $(ARGS)

# Needs what the interop tests need of Java (java, mvn), a C compiler, and kcat where there is one.
bench-kafka: setup
	$(BIN)/python -m benchmarks.against_kafka $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(ARGS)

profile: setup
	$(PIP_INSTALL) -e '.[bench]'
	$(BIN)/python -m benchmarks.profile $(WORKLOAD) $(ARGS)

fuzz: setup
	@for target in $$(ls tests/fuzz/fuzz_*.py | xargs -n 1 basename -s .py); do \
	  echo "== $$target"; $(BIN)/python -m tests.fuzz.$$target --seconds $(FUZZ_SECONDS) || exit 1; done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup
	$(BIN)/mypy

check: lint types test

# Resolves the newest versions within the ranges of pyproject.toml in a clean environment.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet '.[test,lint]'
	{ echo '# What `make setup` installs: the ranges of pyproject.toml (with the extras test and lint), pinned. Made by `make lock`.'; \
	  .venv-lock/bin/python -m pip freeze --exclude bytemq; } > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock .upgrade .interop .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
