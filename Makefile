# Two commands to start: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint clean

demo: $(VENV)/demo.stamp
	$(VENV)/bin/ov-encoder demo --out demo

test: $(VENV)/test.stamp
	$(VENV)/bin/python -m pytest -n 2

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# One stamp per extra: reinstalled only when the requirements change.
$(VENV)/%.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) demo build dist src/*.egg-info
