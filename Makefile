# What a person types.  `make` alone shows the list.
#
# A target with a `##` text is supported; one without is private and may change at any time.
# Everything that is made lands in .venv and .cache, which git ignores; `make clean` removes both.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# The order of the prerequisites below is the order of the work: packages, environment, checks, tests.
.NOTPARALLEL:

BIN := .venv/bin
TREE := .cache/boot-tree

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---------------------------------------------------------------------------------------------------------------------
# The two commands for a newcomer.  On Debian 12 or 13 they install what is missing, if they may, or say what to install.

.PHONY: demo
demo: packages-demo venv tree ## watch an update on a simulated Pi: stage, try, commit, fall back, revert (needs the network once)
	@$(BIN)/python tools/demo.py --tree $(TREE)

.PHONY: test
test: packages-test venv lint types ## check style and types, then run every test
	@echo "test: pytest"
	@$(BIN)/pytest -n 2 --dist loadgroup

# ---------------------------------------------------------------------------------------------------------------------
# The parts, for daily work.

.PHONY: lint
lint: venv ## check the style (ruff)
	@echo "lint: ruff check, ruff format --check"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: venv ## check the types (mypy --strict)
	@echo "types: mypy"
	@$(BIN)/mypy

.PHONY: fmt
fmt: venv ## rewrite the sources in the house style (ruff)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: bench
bench: packages-bench venv ## measure staging against mcopy, PyFatFS, dd and RAUC, and the start-up time (as root: all of it)
	@$(BIN)/python benchmarks/stage.py
	@$(BIN)/python benchmarks/device.py
	@$(BIN)/python benchmarks/updates.py --json .cache/updates.json
	@$(BIN)/python benchmarks/startup.py

.PHONY: vfat
vfat: packages-vfat venv ## let a real Linux kernel's vfat driver judge what abboot writes (needs the network once)
	@echo "vfat: one minute; the kernel is fetched once"
	@$(BIN)/pytest -m kernel tests/kernel --quiet --tb=short --maxfail=20

# FUZZ='--runs 10000 fat' makes it short; see tests/fuzz/run.py.
FUZZ ?=
.PHONY: fuzz
fuzz: packages-test venv ## fuzz whatever reads what a card says: a million inputs each (hours; needs the network once)
	@$(BIN)/python -c 'import atheris, coverage' 2>/dev/null || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@nice -n 19 $(BIN)/python -m tests.fuzz.run $(FUZZ)

.PHONY: tree
tree: ## assemble a real boot tree for Pi 4 and Pi 5 in .cache/boot-tree (needs the network once)
	@tools/packages.sh tree
	@images/raspi-boot-tree.sh $(TREE)

.PHONY: clean
clean: ## remove the virtual environment, the caches and everything built
	@echo "clean: .venv .cache build dist and the tools' caches"
	@rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------------------------------------
# Private.

packages-%:
	@tools/packages.sh python $*

.PHONY: venv
venv:
	@tools/venv.sh
