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

# CRASHLAB='--mount sync' tries other mount options; see tests/crashlab/run.py.
CRASHLAB ?=
.PHONY: crashlab
crashlab: packages-crashlab venv ## cut the power at every write of a switch, abboot's and twelve other ways (needs the network once)
	@echo "crashlab: three minutes; the kernel and its programs are fetched once"
	@$(BIN)/python -m tests.crashlab.run $(CRASHLAB)

# The time limit is for a machine that got stuck: every wait of a test ends by itself.
.PHONY: e2e
e2e: packages-e2e venv ## boot whole cards for real, Linux and systemd, and cut their power (ten minutes; needs the network once)
	@echo "e2e: the guest is made once; every test leaves a transcript in .cache/e2e/transcripts"
	@$(BIN)/python -m tests.e2e.guest
	@timeout --kill-after=30 60m $(BIN)/pytest -m e2e tests/e2e -n 2 --dist worksteal --tb=short --durations=5

# CUTS='--stage 5 --arm 5 --commit 5' makes it short; see tests/e2e/cuts.py.
CUTS ?=
.PHONY: cuts
cuts: packages-e2e venv ## cut the power of a real kernel two hundred times, drawn by write index (an hour and more)
	@$(BIN)/python -m tests.e2e.guest
	@nice -n 15 $(BIN)/python -m tests.e2e.cuts $(CUTS)

# FUZZ='--runs 10000 fat' makes it short; see tests/fuzz/run.py.
FUZZ ?=
.PHONY: fuzz
fuzz: packages-test venv ## fuzz whatever reads what a card says: a million inputs each (hours; needs the network once)
	@$(BIN)/python -c 'import atheris, coverage' 2>/dev/null || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@nice -n 19 $(BIN)/python -m tests.fuzz.run $(FUZZ)

.PHONY: deb
deb: packages-deb venv ## build the Debian package in dist/, and let lintian judge it
	@$(BIN)/python tools/build_deb.py
	@lintian --allow-root --fail-on error dist/abboot_*_all.deb

.PHONY: debtest
debtest: packages-debtest venv ## install the package in fresh Debian 12 and 13 systems (needs the network)
	@echo "debtest: four minutes"
	@$(BIN)/pytest -m debian tests/packaging --quiet

# CRASH='--share 0.01 confirm' makes it short; see tests/crash/run.py.
CRASH ?=
.PHONY: crash
crash: packages-test venv ## cut the power at every write of every verb, and judge every card that can be left (half an hour)
	@nice -n 10 $(BIN)/python -m tests.crash.run --json .cache/crash.json $(CRASH)

# MUTANTS='flag' runs those with that word in their name.
MUTANTS ?=
.PHONY: mutants
mutants: packages-test venv ## take each guard against a power cut away once: a crash test has to notice (a quarter of an hour)
	@nice -n 10 $(BIN)/python -m tests.mutants.run --json .cache/mutants.json $(MUTANTS)

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
