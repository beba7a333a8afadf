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
	$(BIN)/python -m pytest -q -W error -n 2 --dist loadfile
	@$(MAKE) --no-print-directory docs

# All anew: Sphinx warns of a page only when it reads it.
docs: .venv/dev
	rm -rf build/docs
	$(BIN)/sphinx-build -W -q -j auto docs build/docs
	$(BIN)/python docs/check.py build/docs

figures: .venv/demo
	$(BIN)/python -m images

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
