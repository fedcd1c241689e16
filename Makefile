# `make help` lists what there is. Everything runs in .venv, made from requirements/dev.txt (locked, with hashes).
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Some machines forbid Python its cache of compiled modules; the tests start gpurack hundreds of times.
unexport PYTHONDONTWRITEBYTECODE
# What hosts do not have must not help a test: without it, an output that is closed shows later.
unexport PYTHONUNBUFFERED
# How much of exhaustive tests runs (tests/sampling.py): check, a sample, or thorough, all, as in .ci/run.
EXAMPLES ?= check
export GPURACK_EXAMPLES := $(EXAMPLES)

.DEFAULT_GOAL := help
.PHONY: help setup lock docs pictures check lint types unit wheel-check test acceptance test-replacement \
    test-engines test-platforms test-rebuild test-security test-upgrade test-faults test-faults-all soak test-all bench demo demo-down

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(READY) ## the virtual environment, from locked versions
$(READY): requirements/dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "gpurack needs Python 3.11 or newer ($(PYTHON) not found)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gpurack needs Python 3.11 or newer; set PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock: ## renew requirements/*.txt from pyproject.toml
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header \
	    --extra dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header \
	    pyproject.toml -o requirements/run.txt

docs: $(READY) ## pages made from the code: docs/inventory.md, docs/errors.md, the tables of docs/engines.md and docs/reliability.md, docs/from-docker-run.md (tests/unit/importing)
	$(BIN)/python -m gpurack.inventory.reference > docs/inventory.md
	$(BIN)/python -m gpurack.inventory.error_reference > docs/errors.md
	$(BIN)/python -m gpurack.engines.reference docs/engines.md
	$(BIN)/python -m tests.unit.importing.page > docs/from-docker-run.md
	$(BIN)/python -m tests.faults.results docs/reliability.md

pictures: $(READY) ## docs/run.svg from a real run, and screenshots of the status page, on the testbed (after make demo)
	$(BIN)/python -m tests.testbed.pictures

# Tests come first because they take longest.
check: $(READY) ## the inner loop: lint, types, unit, operation and security tests; a minute on two cores
	@$(MAKE) --no-print-directory -j 3 --output-sync unit types lint

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest -q -p tests.lanes

wheel-check: $(READY) ## builds the wheel, checks it, and uses it in a bare environment outside of the checkout; half a minute
	$(BIN)/python -m tests.wheel

test: unit acceptance ## unit, operation and acceptance tests of the main job

# The suites on the testbed. Each of SUITES has hosts of its own, so that several can run at once. The longest begin
# first. Suites often wait (for a model to load, a host to boot), so `test-all` runs three of them on two cores.
ENGINES := tests/acceptance/engines
PLATFORMS := tests/acceptance/platforms
REBUILD := tests/acceptance/rebuild
ON_ENGINE1 := $(addprefix $(ENGINES)/test_,embeddings.py failures.py on_cards.py vllm.py)
LONGEST := $(addprefix $(PLATFORMS)/test_,lifecycle.py rootless.py)
SUITES := several-hosts others-of-engines replacement platforms one-host others-of-platforms security engines upgrade faults rebuild \
    verification soak
.PHONY: $(SUITES)
# How many random changes `make soak` makes. `test-all` makes 10.
SOAK ?= 200
export SOAK KEEP

several-hosts: $(READY)
	$(call suite,tests/acceptance/test_*.py)
one-host: $(READY)
	$(call suite,tests/acceptance/one_host)
replacement: $(READY)
	$(call suite,tests/acceptance/replacement)
engines: $(READY)
	$(call suite,$(ON_ENGINE1))
others-of-engines: $(READY)
	$(call suite,$(ENGINES) $(addprefix --ignore=,$(ON_ENGINE1)))
platforms: $(READY)
	$(call suite,$(LONGEST))
others-of-platforms: $(READY)
	$(call suite,$(PLATFORMS) $(addprefix --ignore=,$(LONGEST)))
verification: $(READY)
	$(call suite,$(REBUILD)/test_verify.py)
rebuild: $(READY)
	$(call suite,$(REBUILD) --ignore=$(REBUILD)/test_verify.py)

security: $(READY)
	$(call suite,tests/security/testbed)
upgrade: $(READY)
	$(call suite,tests/upgrade)
faults: $(READY)
	$(call suite,tests/faults/test_faults.py tests/faults/test_disk_order.py)
soak: $(READY) ## random changes of a random inventory with reboots, each verified, on the testbed (SOAK=200)
	$(call suite,tests/faults/test_soak.py)

# $(call suite,what pytest is to run): every line says which suite it is of. Its hosts end with it; KEEP=1 keeps them.
# With LAST_BEGIN (seconds since 1970; .ci/run), none begins after that moment: it says so instead.
suite = @set -o pipefail; if [ "$${LAST_BEGIN:-9999999999}" -lt "$$(date +%s)" ]; then echo "$@: NOT RUN, no time was left for it on this machine"; exit 0; fi; { $(BIN)/python -m tests.testbed services && $(BIN)/python -m pytest -p tests.testbed.ending -v --durations=15 $(1); } 2>&1 \
	| sed -u 's/^/$@: /'
two-by-two = @$(MAKE) --no-print-directory --keep-going -j 2 $(1); code=$$?; $(BIN)/python -m tests.testbed down --idle; exit $$code

acceptance: $(READY) ## what must hold on the testbed's real hosts
	$(call two-by-two,several-hosts one-host)

test-replacement: replacement ## changes that fail or are interrupted: the old model serves again, on the testbed

test-engines: $(READY) ## the engines that can be had, and the stand-ins of the others, on the testbed
	$(call two-by-two,engines others-of-engines)

test-platforms: $(READY) ## yum and dnf, rootless Docker, AMD, mirrors, on the testbed
	$(call two-by-two,platforms others-of-platforms)

test-rebuild: $(READY) ## verification, lock and rebuild on the testbed
	$(call two-by-two,verification rebuild)

test-security: security ## what a hostile user of a host can do: nothing, on the testbed

test-upgrade: upgrade ## a host of an older gpurack and this one, on the testbed

test-faults: faults ## a sample of what can interrupt a run: the next one converges, on the testbed

test-faults-all: $(READY) ## every point × every fault, for docs/reliability.md; what tests/faults/results.tsv has is not run again
	$(BIN)/python -m tests.faults.all

test-all: $(READY) ## all suites on the testbed
	@SOAK=10 $(MAKE) --no-print-directory --keep-going -j 3 $(SUITES)

bench: $(READY) ## how fast it is, on the testbed, for docs/performance.md; fails where a median is above its goal. Never in CI
	$(BIN)/python -m benchmarks

demo: $(READY) ## a testbed of two hosts, the main job on it twice, and what the models say
	$(BIN)/python -m tests.testbed.demo

demo-down: $(READY) ## ends what `make demo` or `make test` started
	$(BIN)/python -m tests.testbed down
