# make demo   set up, then run the bundled model on the bundled clip (see demo-out/)
# make test   set up, then lint, types, import contracts, manifest, wheel, tests
# make setup  only set up: system packages (Debian, root), .venv, everything in it

VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
OUT    ?= demo-out
PYTEST_ARGS ?= --numprocesses=logical --maxprocesses=4 --dist=worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types contracts manifest wheel pytest format clean

help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(STAMP)

# Again when what is to be installed changes; otherwise this costs nothing.
$(STAMP): setup.cfg pyproject.toml tools/setup.sh
	@bash tools/setup.sh $(VENV)
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/flowrvs demo --out $(OUT)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

contracts: $(STAMP)
	$(VENV)/bin/lint-imports --no-logo

manifest: $(STAMP)
	$(VENV)/bin/npe2 validate napari-flowrvs

wheel: $(STAMP)
	@bash tools/check_wheel.sh $(PY)

# A process a core, each with a display of its own from pytest-xvfb: the environment must not
# choose another one. Tests start many programs: what one compiles, the next need not.
pytest: $(STAMP)
	env -u QT_QPA_PLATFORM -u DISPLAY -u WAYLAND_DISPLAY -u PYTHONDONTWRITEBYTECODE \
	  $(PY) -m pytest $(PYTEST_ARGS)

# The short checks side by side; the last line is pytest's own.
test: $(STAMP)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync lint types contracts manifest wheel
	@$(MAKE) --no-print-directory pytest

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache $(OUT)
