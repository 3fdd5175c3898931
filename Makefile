# Everything runs in one virtual environment that these targets make; nothing else is needed but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST_ARGS ?=

.PHONY: help demo test check bench clean

help:
	@echo "make demo [PHOTOS=DIR]  install, index photographs and run three queries"
	@echo "make test               install what the tests need and run them"
	@echo "make check              ruff, mypy --strict, import-linter and the tests"
	@echo "make bench [PHOTOS=DIR] the benchmarks; those of indexing need photos"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable ".[ui]" scikit-image scikit-learn
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable ".[ui,train]" --group dev
	$(PIP) --no-deps timm
	@touch $@

demo: $(VENV)/.runtime
	@$(BIN)/python docs/examples/demo.py $(if $(PHOTOS),--photos "$(PHOTOS)")

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/exact_search.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/ivfpq.py
	$(BIN)/python -m benchmarks.cold_query
	$(if $(PHOTOS),$(BIN)/python benchmarks/dct_scale.py "$(PHOTOS)" --model mini)
	$(if $(PHOTOS),$(BIN)/python benchmarks/ingest.py "$(PHOTOS)" --model mini)

clean:
	rm -rf $(VENV) demo build dist
