# Every target makes .venv when it is missing and is quick when nothing changed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SUPPLY := .venv/.supply
# Of bench-accuracy: the folder of the protocol, and options and overrides. ARGS are options of audit too.
BENCH ?= ../shared/bench
ARGS ?=
# Of test and test-all; without it (make test COVERAGE=) they take about a quarter less time.
COVERAGE ?= --cov --cov-report=

.PHONY: help train test test-all check format bench-accuracy proto tensorboard docs lock sbom audit clean
.DEFAULT_GOAL := help

help:
	@echo "make train           train on built-in synthetic traffic (about half a minute)"
	@echo "make test            lint, types, tests and their coverage (details: .venv/bin/coverage report)"
	@echo "make test-all        the same with the long proofs (marked slow)"
	@echo "make check           ruff, format check, mypy"
	@echo "make format          let ruff mend style"
	@echo "make bench-accuracy  score the default recipe beside other forecasters (BENCH=folder of the protocol)"
	@echo "make proto           generate code from src/kforecast/metrics/proto/provider.proto"
	@echo "make tensorboard     look at every run under outputs/"
	@echo "make docs            the documentation as a site: outputs/site/index.html"
	@echo "make lock            make constraints.lock anew: the hashes of the published files of constraints.txt"
	@echo "make sbom            what is installed in .venv, as CycloneDX: outputs/sbom.json"
	@echo "make audit           ask for known vulnerabilities of what constraints.lock pins"
	@echo "make clean           remove .venv, caches and build output (outputs/ stays)"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the pinned dependencies into .venv (once; a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: $(INSTALLED)
	@$(BIN)/kforecast-train source=synthetic

test: check
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(COVERAGE) -m "not slow"

test-all: check
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(COVERAGE)

check: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench-accuracy: $(INSTALLED)
	@$(BIN)/python scripts/benchmark_accuracy.py --bench "$(BENCH)" $(ARGS)

proto: $(INSTALLED)
	@cd src && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. \
	  kforecast/metrics/proto/provider.proto

tensorboard: $(INSTALLED)
	@$(BIN)/tensorboard --logdir outputs

docs: $(INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "outputs/site/index.html (with its search: $(BIN)/mkdocs serve)"

# The tools of the three targets below; nothing else needs them.
$(SUPPLY): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[supply]'
	@touch $@

lock: $(SUPPLY)
	@$(BIN)/uv pip compile --quiet --upgrade --no-deps --no-annotate --generate-hashes \
	  --output-file constraints.lock constraints.txt

sbom: $(SUPPLY)
	@mkdir -p outputs
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file outputs/sbom.json $(BIN)/python
	@echo "outputs/sbom.json"

# Strict: what the service does not know must not pass as harmless.
audit: $(SUPPLY)
	@$(BIN)/pip-audit --requirement constraints.lock --require-hashes --disable-pip --strict \
	  --progress-spinner off $(ARGS) || \
	  { echo "error: the audit did not pass: a vulnerability is named above, or else the service could not be" \
	         "asked and nothing is known (another one: make audit ARGS='--vulnerability-service osv')"; exit 1; }

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
