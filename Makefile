# Each target works in a fresh clone: the first one makes .venv. Needed: Python >= 3.11, git, make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
PARTS := $(wildcard integrations/*/pyproject.toml)
PACKAGES := -e '.[all]' $(PARTS:%/pyproject.toml=-e %) --group test --group lint
NAMES := svr-retrievers $(PARTS:integrations/%/pyproject.toml=%)

PEERS := .venv-peers/bin
SIZE ?= small
SEED ?= 7
OPTIONS ?=
RESULTS := benchmarks/results/$(SIZE)

.PHONY: help demo bench bench-mongodb bench-hybrid bench-readme test lint format constraints check-install clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1	\2/p' Makefile

demo: $(READY) ## one shared index against routed partitions, on real text
	@$(BIN)/python -m svr_retrievers.cli demo

bench: $(READY) .venv-peers/ready ## side by side with other stores (SIZE=small, minutes; SIZE=large, an hour)
	@mkdir -p benchmarks/results
	$(BIN)/python -m svr_retrievers.cli bench --size $(SIZE) --seed $(SEED) --peers-python $(PEERS)/python \
	  --json $(RESULTS).json --markdown $(RESULTS).md --svg $(RESULTS).svg $(OPTIONS)

bench-mongodb: $(READY) ## ingest and search on MongoDB beside plain PyMongo, a few minutes
	$(BIN)/python benchmarks/mongodb.py --json benchmarks/results/mongodb.json

bench-hybrid: $(READY) ## vectors, words and their fusions on questions about the demo corpus, a minute
	$(BIN)/python benchmarks/hybrid.py $(OPTIONS)

bench-readme: $(READY) ## put the figures of the last `make bench` into README and docs (SIZE=large)
	$(BIN)/python -m svr_retrievers.bench.publish $(RESULTS).json

test: $(READY) ## all tests, with branch coverage
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term

lint: $(READY) ## style, types, import rules, spelling
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m codespell_lib

format: $(READY) ## let ruff mend what it can
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

constraints: $(READY) ## pin anew what the checks run with, for every Python and platform
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate \
	  --no-header --extra all --extra demo --group test --group lint $(NAMES:%=--no-emit-package %) \
	  pyproject.toml $(PARTS) --output-file constraints.txt

check-install: ## install as a user does, without pins, and import
	rm -rf .venv-plain
	$(PYTHON) -m venv .venv-plain
	.venv-plain/bin/python -m pip install --quiet --disable-pip-version-check '.[all]' $(PARTS:%/pyproject.toml=./%)
	cd .venv-plain && bin/python ../tests/docs/import_installed.py
	rm -rf .venv-plain

clean: ## remove .venv and caches
	rm -rf .venv .venv-plain .venv-peers .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage

# uv installs in seconds what takes pip a minute. pip does it where uv cannot be had, fails, or would
# pass by a package index that pip is set up to use.
$(READY): pyproject.toml constraints.txt $(PARTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info; v < (3, 11) and sys.exit("Python 3.11 or newer is needed, not %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: seconds with uv, a minute or two with pip."
	@export PIP_DISABLE_PIP_VERSION_CHECK=1; py=$(BIN)/python; \
	if ! $$py -m pip config list | grep -q '\.index-url=' && $$py -m pip install --quiet uv \
	  && $$py -m uv pip install --quiet --python $$py -c constraints.txt $(PACKAGES); then :; else \
	  $$py -m pip install --quiet --upgrade 'pip>=25.1' && $$py -m pip install --quiet -c constraints.txt $(PACKAGES); fi
	@touch $@

# The stores to compare with, apart from .venv: their demands on the drivers exclude each other. What cannot be
# installed here (hnswlib needs a compiler) is named, and the benchmark says that it was not measured.
.venv-peers/ready: benchmarks/peers.txt
	@test -x $(PEERS)/python || $(PYTHON) -m venv .venv-peers
	@echo "Installing the stores to compare with into .venv-peers: a minute or two."
	@export PIP_DISABLE_PIP_VERSION_CHECK=1; pip="$(PEERS)/python -m pip install --quiet"; \
	if $$pip -r benchmarks/peers.txt; then touch $@; else \
	  echo "Some cannot be installed here: trying one after the other."; \
	  grep -v '^#' benchmarks/peers.txt | while read -r one; do $$pip "$$one" || echo "$$one: not installed."; done; fi
