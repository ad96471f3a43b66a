# Two commands: `make demo` and `make test`. Both start from nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo demo-control test coverage check wheel docs clean

help:
	@echo "make demo          install, then prepare -> pretrain -> evaluate on the bundled text (under 5 minutes)"
	@echo "make test          install with the development tools, then run the tests"
	@echo "make coverage      the same, and which lines they reach (slower)"
	@echo "make check         lint, format, types, import contracts, spelling"
	@echo "make demo-control  the demo with shuffled training tokens: its check must fail"
	@echo "make wheel         build the wheel, install it into an empty environment and use it"
	@echo "make docs          regenerate docs/cli.md"
	@echo "make clean         remove the environment and everything the demo wrote"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed-dev

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

demo-control: $(VENV)/.installed
	$(BIN)/python examples/demo.py --shuffle-training-tokens --folder demo/control

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests docs examples benchmarks README.md CHANGELOG.md CONTRIBUTING.md

wheel: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	PYTHON="$(PYTHON)" bash tests/check_wheel.sh dist/*.whl

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate_cli.py

clean:
	rm -rf $(VENV) demo dist build
