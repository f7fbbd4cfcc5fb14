# Every target creates .venv if it is missing, and is quick if nothing has changed.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
# One stamp file for each completed step of the installation.
BASE := .venv/.base
TRAIN := .venv/.train
TEST := .venv/.test
SLOW := .venv/.slow
# Extras that the tests need in addition to their dependency groups.
TEST_EXTRAS := --extra holidays --extra joblib --extra onnx --extra optuna
SLOW_EXTRAS := $(TEST_EXTRAS) --extra lightgbm --extra mlflow --extra notebook --extra submitit --extra wandb
# --inexact: packages outside of the lock (torch, pip, your own) stay.
# uv shows its progress only on a terminal.
SYNC = $(UV) sync --locked --inexact --no-python-downloads $$(test -t 2 || echo --quiet)
# For bench-accuracy: the folder of the protocol; options and overrides. audit takes ARGS too.
BENCH ?= ../shared/bench
ARGS ?=
# For test and test-all, for instance: make test COVERAGE="--cov --cov-report=term"
COVERAGE ?=
# Images often forbid it, and then every process of a test compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal $(COVERAGE)

.PHONY: help train test test-all check format bench-accuracy proto tensorboard docs lock sbom audit clean
.DEFAULT_GOAL := help

help:
	@echo "make train           train on built-in synthetic traffic (about half a minute)"
	@echo "make test            lint, types and tests"
	@echo "make test-all        the same with the long tests (marked slow)"
	@echo "make check           ruff, format check, mypy"
	@echo "make format          let ruff fix the style"
	@echo "make bench-accuracy  compare the default recipe with other forecasters (BENCH=folder of the protocol)"
	@echo "make proto           generate code from the .proto files of src/kforecast"
	@echo "make tensorboard     show every run under outputs/"
	@echo "make docs            build the documentation as a site: outputs/site/index.html"
	@echo "make lock            update uv.lock and constraints.txt to the newest versions, with hashes"
	@echo "make sbom            list the packages in .venv, as CycloneDX: outputs/sbom.json"
	@echo "make audit           look up known vulnerabilities of the packages in uv.lock"
	@echo "make clean           remove .venv, caches and build output (outputs/ stays)"

# A virtual environment with torch and with uv, which installs everything else.
$(BASE): constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || { echo "Creating .venv ..."; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt uv
	@PYTHON=$(BIN)/python UV=$(UV) sh deploy/install_torch.sh $(TORCH)
	@touch $@

$(TRAIN): $(BASE) pyproject.toml uv.lock
	@echo "Installing the training dependencies from uv.lock ..."
	@$(SYNC) --group install
	@touch $@

$(TEST): $(TRAIN)
	@echo "Installing the test dependencies ..."
	@$(SYNC) --group install --group test $(TEST_EXTRAS)
	@touch $@

$(SLOW): $(TEST)
	@echo "Installing the dependencies of the long tests ..."
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
	  kforecast/metrics/proto/provider.proto kforecast/serving/proto/externalscaler.proto

tensorboard: $(TRAIN)
	@$(BIN)/tensorboard --logdir outputs

docs: $(TRAIN)
	@$(SYNC) --group install --group docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "outputs/site/index.html (with its search: $(BIN)/mkdocs serve)"

# The newest versions that pyproject.toml allows, with the hashes of their files. constraints.txt has the same
# versions for pip, and the version of torch, which is changed there by hand.
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

# Strict: a package that the service does not know must not pass as harmless.
audit: $(TRAIN)
	@$(SYNC) --group install --group supply
	@$(UV) export --quiet --locked --all-groups --all-extras --no-extra ray --no-emit-project > outputs/lock.txt
	@$(BIN)/pip-audit --requirement outputs/lock.txt --require-hashes --disable-pip --strict \
	  --progress-spinner off $(ARGS) || \
	  { echo "error: the audit did not pass: either a vulnerability is listed above, or the service did not" \
	         "answer (another service: make audit ARGS='--vulnerability-service osv')"; exit 1; }

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
