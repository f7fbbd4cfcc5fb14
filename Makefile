# Every target makes .venv when it is missing and is quick when nothing changed.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
# One file for each step of the installation that is done.
BASE := .venv/.base
TRAIN := .venv/.train
TEST := .venv/.test
SLOW := .venv/.slow
# Extras that the tests want beside their dependency groups.
TEST_EXTRAS := --extra holidays --extra joblib --extra onnx --extra optuna
SLOW_EXTRAS := $(TEST_EXTRAS) --extra mlflow --extra notebook --extra submitit --extra wandb
# --inexact: what is installed beside the lock (torch, pip, packages of your own) stays.
# uv shows its progress where somebody looks at it.
SYNC = $(UV) sync --locked --inexact --no-python-downloads $$(test -t 2 || echo --quiet)
# Of bench-accuracy: the folder of the protocol, and options and overrides. ARGS are options of audit too.
BENCH ?= ../shared/bench
ARGS ?=
# Of test and test-all, for instance: make test COVERAGE="--cov --cov-report=term"
COVERAGE ?=
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal $(COVERAGE)

.PHONY: help train test test-all check format bench-accuracy proto tensorboard docs lock sbom audit clean
.DEFAULT_GOAL := help

help:
	@echo "make train           train on built-in synthetic traffic (about half a minute)"
	@echo "make test            lint, types and tests"
	@echo "make test-all        the same with the long proofs (marked slow)"
	@echo "make check           ruff, format check, mypy"
	@echo "make format          let ruff mend style"
	@echo "make bench-accuracy  score the default recipe beside other forecasters (BENCH=folder of the protocol)"
	@echo "make proto           generate code from src/kforecast/metrics/proto/provider.proto"
	@echo "make tensorboard     look at every run under outputs/"
	@echo "make docs            the documentation as a site: outputs/site/index.html"
	@echo "make lock            the newest versions: uv.lock, with the hashes of their files, and constraints.txt"
	@echo "make sbom            what is installed in .venv, as CycloneDX: outputs/sbom.json"
	@echo "make audit           ask for known vulnerabilities of what uv.lock pins"
	@echo "make clean           remove .venv, caches and build output (outputs/ stays)"

# A virtual environment with uv, which installs everything else, and with torch.
$(BASE): constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || { echo "Making .venv ..."; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt uv
	@PYTHON=$(BIN)/python UV=$(UV) sh deploy/install_torch.sh $(TORCH)
	@touch $@

$(TRAIN): $(BASE) pyproject.toml uv.lock
	@echo "Installing what training needs, as uv.lock has it ..."
	@$(SYNC) --group install
	@touch $@

$(TEST): $(TRAIN)
	@echo "Installing what the tests need besides ..."
	@$(SYNC) --group install --group test $(TEST_EXTRAS)
	@touch $@

$(SLOW): $(TEST)
	@echo "Installing what the long tests need besides ..."
	@$(SYNC) --group install --group slow $(SLOW_EXTRAS)
	@touch $@

train: $(TRAIN)
	@$(BIN)/kforecast-train source=synthetic

test: check
	@$(PYTEST) -m "not slow"

test-all: $(SLOW) check
	@$(PYTEST)

check: $(TEST)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(TEST)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench-accuracy: $(TRAIN)
	@$(BIN)/python scripts/benchmark_accuracy.py --bench "$(BENCH)" $(ARGS)

proto: $(TRAIN)
	@$(SYNC) --group install --group proto
	@cd src && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. \
	  kforecast/metrics/proto/provider.proto

tensorboard: $(TRAIN)
	@$(BIN)/tensorboard --logdir outputs

docs: $(TRAIN)
	@$(SYNC) --group install --group docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "outputs/site/index.html (with its search: $(BIN)/mkdocs serve)"

# The newest versions that pyproject.toml allows, with the hashes of their files; constraints.txt are the same
# for pip, and torch, whose version changes there by hand.
lock: $(BASE)
	@$(UV) lock --upgrade
	@sed -n '1,/^torch==/p' constraints.txt > constraints.new
	@$(UV) export --quiet --locked --all-groups --all-extras --no-extra ray --no-hashes --no-annotate --no-header \
	  --no-emit-project >> constraints.new
	@mv constraints.new constraints.txt

sbom: $(TRAIN)
	@$(SYNC) --group install --group supply
	@mkdir -p outputs
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file outputs/sbom.json $(BIN)/python
	@echo "outputs/sbom.json"

# Strict: what the service does not know must not pass as harmless.
audit: $(TRAIN)
	@$(SYNC) --group install --group supply
	@$(UV) export --quiet --locked --all-groups --all-extras --no-extra ray --no-emit-project > outputs/lock.txt
	@$(BIN)/pip-audit --requirement outputs/lock.txt --require-hashes --disable-pip --strict \
	  --progress-spinner off $(ARGS) || \
	  { echo "error: the audit did not pass: a vulnerability is named above, or else the service could not be" \
	         "asked and nothing is known (another one: make audit ARGS='--vulnerability-service osv')"; exit 1; }

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
