# The repository's verbs. Everything runs in .venv, from the versions pinned in constraints.txt.
PYTHON ?= python3
VENV := .venv
# What `make check` and `make test` install; scale adds the tests of clusters and web servers.
EXTRAS ?= train,dev
BIN := $(VENV)/bin

.PHONY: install demo check format test bench docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: install
	$(BIN)/auricle demo

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: install
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

bench: install
	$(BIN)/python -m benchmarks all --keep
	$(BIN)/python -m docs.make_figures

docs: install
	$(BIN)/python -m docs.make_recipes
	$(BIN)/python -m docs.make_encoders
	$(BIN)/python -m docs.make_figures
	$(BIN)/python -m docs.make_report_image

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo runs build dist .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
