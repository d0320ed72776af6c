# `make train` and `make test` do all the set-up on a fresh machine: Linux, Python >= 3.10, nothing else.
PYTHON ?= python3
# the packages to install torch by; e.g. TORCH="torch==2.13.0" where a special build is wanted
TORCH ?= torch torchvision
# where torch comes from, if not from the usual index: in the place of that index, for torch alone, and never beside it, since pip
# then takes a package of the same name from either; e.g. TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# what release-check installs before the wheel, which needs neither torchvision nor a GPU; e.g. CORE="torch==2.13.0"
CORE ?= torch
FROM = $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
BIN = .venv/bin
JOBS ?= 2

.PHONY: train test test-slow test-all docs lint types dist release-check clean

train: .venv/training
	$(BIN)/bpsta study loop --out runs/loop

# every room; what takes long is named in tests/_slow.py
test: .venv/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m slow

test-all: test test-slow

docs: .venv/installed
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

dist: .venv/installed
	rm -rf build dist
	$(BIN)/python -m build

release-check: .venv/installed
	$(BIN)/python .ci/release_check.py $(FROM) $(CORE)

# what training needs, and no more
.venv/training: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(FROM) $(firstword $(TORCH))
	$(BIN)/pip install --quiet --editable ".[train,plots]"
	touch $@

.venv/installed: .venv/training
	$(BIN)/pip install --quiet $(FROM) $(TORCH)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist docs/_build runs *.egg-info
