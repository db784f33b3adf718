# The commands of a newcomer. `make train` and `make test` set up what they need in .venv first.
PYTHON ?= python3
# Installed before the project, so that a build of torch at hand is taken; with a GPU, set your own:
#   make train TORCH="torch==2.13.0"
TORCH ?= torch==2.13.0
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
JOBS ?= auto
# One thread for each test process: two pools on the same cores wait for each other.
TEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS)

.PHONY: train sweep test test-all check fuzz bench clean

train: $(READY)  ## distil on the handwritten digits, beside the teacher and the student alone
	$(RUN) -m kdlab.train model=mobilenet loss=kd

sweep: $(READY)  ## search temperature, alpha and width; then a report
	$(RUN) -m kdlab.sweep sweeps/kd.yaml
	$(RUN) -m kdlab.report runs/kd

test: check  ## types, style, and every test that takes seconds
	$(TEST) -m "not slow"

test-all: check  ## everything, minutes included
	$(TEST)

check: $(READY)
	$(VENV)/bin/ruff check src tests
	$(VENV)/bin/ruff format --check src tests
	$(VENV)/bin/mypy

fuzz: $(READY)  ## a thousand new command lines and studies: each is trained or refused in one line
	KDLAB_FUZZ=1000 $(TEST) tests/test_fuzz.py

bench: $(READY)  ## the training step against a loop written by hand
	$(RUN) -m kdlab.bench

$(READY): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'kdlab needs Python 3.11 or newer: make PYTHON=python3.12')"
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet "$(TORCH)"
	$(RUN) -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
