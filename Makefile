# All that a person does with this repository. `make` alone lists it.
#
#   ENGINE=auto|vllm|sim   the inference engine to install and run (auto: vLLM where it can be had)
#   PYTHON=python3.12      the Python to set up with
#   ARGS='…'               arguments for run (--scale fast=2 --no-demo --verbose) and test (pytest's)

PYTHON ?= python3
ENGINE ?= auto
SETUP = $(PYTHON) -m onebox.setup --engine $(ENGINE)
IN = .venv/bin

.PHONY: help setup run test check lock model clean

help:    ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:   ## install what is locked into .venv: vLLM for CUDA or CPU, Redis, everything
	@$(SETUP)

run:     ## set up, start every process, show two first jobs, serve until Ctrl-C
	@$(SETUP) && exec $(IN)/python -m onebox $(ARGS)

test:    ## set up for development, find or install a browser, run the tests
	@$(SETUP) --dev
	@$(IN)/python tests/provision_browser.py
	@$(IN)/python -m pytest -n 2 --max-worker-restart 0 --no-loadscope-reorder $(ARGS)

check:   ## lint, formatting, types, and which part may import which
	@$(SETUP) --dev
	@$(IN)/ruff check .
	@$(IN)/ruff format --check .
	@$(IN)/mypy
	@$(IN)/lint-imports

lock:    ## lock the newest versions that fit pyproject.toml, into requirements/
	@$(SETUP) --dev
	@$(IN)/python requirements/lock.py

model:   ## train the small model that ships in models/ again
	@$(PYTHON) -m onebox.setup --engine vllm
	@$(IN)/python -m models.train_adder

clean:   ## remove .venv, caches, and .slalom with its logs and its jobs
	rm -rf .venv .slalom .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
