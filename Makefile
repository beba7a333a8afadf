# `make demo` and `make test` need Python 3.10 or later and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test format docs figures clean

demo: .venv/demo
	@$(BIN)/python -m examples.demo

test: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict dni tests/typed.py
	$(BIN)/python -m pytest -q -W error
	$(BIN)/sphinx-build -W -q docs build/docs

docs: .venv/dev
	$(BIN)/sphinx-build -W docs build/docs

figures: .venv/demo
	$(BIN)/python images/draw.py

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# One environment, made once and again when what it is made from changes.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[examples]'
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch .venv/demo $@
