# Everything runs in one virtual environment that these targets make; nothing else is needed but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST_ARGS ?=
# A process for each processor, and one thread of arithmetic in each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: help demo test check crash-test bench bench-ui screenshots clean

help:
	@echo "make demo [PHOTOS=DIR]  install, index photographs and run three queries"
	@echo "make test               install what the tests need and run them"
	@echo "make check              ruff, mypy --strict, import-linter and the tests"
	@echo "make crash-test         kills, power cuts, full disks, flipped bits and crowds of readers, at length (an hour)"
	@echo "make bench [PHOTOS=DIR] [RCLIP=FILE VOCABULARY=FILE]  the benchmarks (an hour, 6 GB in demo/); those of indexing need photos,"
	@echo "                        those beside rclip its executable and bpe_simple_vocab_16e6.txt.gz"
	@echo "make bench-ui           the web page in Chromium, with 10,000 and 100,000 photos (ten minutes)"
	@echo "make screenshots        the pictures of the documentation anew, with the bundled model; needs Chromium"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable ".[ui,serve]" scikit-image scikit-learn
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable ".[ui,serve,train]" --group dev
	$(PIP) --no-deps timm
	@touch $@

demo: $(VENV)/.runtime
	@$(BIN)/python docs/examples/demo.py $(if $(PHOTOS),--photos "$(PHOTOS)")

test: $(VENV)/.dev
	$(PYTEST) $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) $(PYTEST_ARGS)

# The same tests that CI runs in part; docs/reliability.md says what each promises.
crash-test: export CLIPSEARCH_KILLS = 616
crash-test: export CLIPSEARCH_POWER_CUTS = 3000
crash-test: export CLIPSEARCH_FLIPS = 1000
crash-test: export CLIPSEARCH_CROWD_SECONDS = 600
crash-test: $(VENV)/.dev
	$(BIN)/python -m pytest tests/clipsearch/test_crashes.py tests/clipsearch/test_crash_sweep.py \
		tests/clipsearch/test_power_loss.py tests/clipsearch/test_bit_flips.py tests/clipsearch/test_crowd.py \
		tests/clipsearch/test_durable.py tests/clipsearch/index/test_storage.py $(PYTEST_ARGS)

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/exact_search.py
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.index_growth --sizes 10000,100000,300000
	$(BIN)/python -m benchmarks.table --library demo/million $(if $(PHOTOS),--photos "$(PHOTOS)") \
		$(if $(RCLIP),--rclip "$(RCLIP)") $(if $(VOCABULARY),--vocabulary "$(VOCABULARY)")
	$(if $(PHOTOS),$(BIN)/python benchmarks/dct_scale.py "$(PHOTOS)" --model mini)
	$(if $(PHOTOS),$(BIN)/python -m benchmarks.ingest "$(PHOTOS)" --model mini)

bench-ui: $(VENV)/.dev
	$(BIN)/python -m benchmarks.ui

screenshots: $(VENV)/.dev
	$(BIN)/python tests/ui/screenshots.py

clean:
	rm -rf $(VENV) demo build dist
