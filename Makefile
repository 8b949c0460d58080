# Two commands do all the set-up: `make demo` and `make test`. Needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SAMPLE := sample_models/digits_cnn

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onnxshrink needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## compress a sample model, print the report, write it as JSON, Markdown and HTML
	mkdir -p demo
	$(BIN)/onnxshrink compress $(SAMPLE)/model.onnx -o demo/digits_cnn.onnx --force \
		--data $(SAMPLE)/eval.npz --report demo/report.json --report demo/report.md --report demo/report.html
	@echo "written: demo/digits_cnn.onnx demo/report.json demo/report.md demo/report.html"

test: $(VENV)/.installed  ## run the test suite
	$(BIN)/python -m pytest -q -n 2

lint: $(VENV)/.installed  ## check style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed  ## check types
	$(BIN)/mypy

format: $(VENV)/.installed  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
