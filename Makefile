# `make train` and `make test` need Python 3.10 or newer and nothing else; each target installs what it uses into .venv.

PYTHON ?= python3
BIN := .venv/bin
# A process for each core, since most of the time goes into compiling, which uses one.
PYTEST := $(BIN)/pytest --numprocesses auto --dist worksteal
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The tests that also run without the compiler: there kernels are Python, so wrong indices raise and coverage sees them.
NOJIT_TESTS := tests/test_simd.py tests/test_tiles.py tests/test_tuning.py tests/test_tuning_tiles.py \
	tests/test_tuning_bits.py tests/test_lane_math.py tests/test_kernels.py tests/test_layers.py tests/test_losses.py \
	tests/test_network.py tests/test_optimizers.py tests/test_steps.py tests/test_program.py tests/test_packing.py

.PHONY: train test test-peers bench lint types format check clean

train: .venv/base  ## train configs/digits.yaml and measure it on the test split
	model=$$($(BIN)/nnjit train configs/digits.yaml) && $(BIN)/nnjit evaluate "$$model"

test: .venv/test  ## run the tests, compiled and then without the compiler, with coverage
	$(PYTEST) -m "not peers" --cov --cov-report=
	NUMBA_DISABLE_JIT=1 $(PYTEST) -m "not peers" $(NOJIT_TESTS) --cov --cov-append --cov-report=term:skip-covered \
		--cov-fail-under=90

test-peers: .venv/peers  ## compare with PyTorch and scikit-learn
	$(PYTEST) -m peers

bench: .venv/peers  ## time workloads, small batches, convolutions and random networks beside PyTorch; wants a quiet machine
	$(BIN)/python benchmarks/compare_torch.py --write benchmarks/RESULTS.md
	$(BIN)/python benchmarks/small_batches.py --write benchmarks/small_batches.md
	$(BIN)/python benchmarks/convolutions.py --threads 1 --write benchmarks/convolutions.md
	NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma \
		$(BIN)/python benchmarks/convolutions.py --threads 1 --write benchmarks/convolutions-avx2.md
	$(BIN)/python benchmarks/random_convolutions.py --write benchmarks/random_convolutions.md
	$(BIN)/python benchmarks/random_networks.py --write benchmarks/random_networks.md

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/lint
	$(BIN)/mypy

format: .venv/lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test test-peers  ## everything that must pass before a commit

clean:  ## remove the virtual environment, caches, and every compiled kernel: nnjit's whole cache folder, other checkouts' too
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .coverage build nnjit.egg-info
	rm -rf $${XDG_CACHE_HOME:-$$HOME/.cache}/nnjit

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/base: .venv/bin/python pyproject.toml
	$(INSTALL) --editable .
	@touch $@

.venv/test .venv/lint .venv/peers: .venv/%: .venv/base
	$(INSTALL) --editable ".[$*]"
	@touch $@

.venv/peers: .venv/test
