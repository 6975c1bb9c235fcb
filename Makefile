# `make run` serves, `make test` runs the everyday tests, `make help` lists all targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
XDIST ?= 4

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-stripe standins check picture chaos simulate split bench profile fuzz audit lock clean screenshots

help:  ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(VENV)/runnable  ## Serve on port 7000 with an embedded database; data stays in .orderflow/
	@exec $(BIN)/orderflow run

TESTS := $(BIN)/python -m pytest -n $(XDIST) --dist worksteal

test: $(VENV)/installed  ## Run the everyday tests: at most four minutes on two cores
	$(TESTS) -m "not extended" $(PYTEST)

test-all: $(VENV)/installed standins $(VENV)/bin/helm  ## Run all tests, also deployments, bench, console, fuzz, clusters and chaos
	$(TESTS) $(PYTEST)

test-stripe: $(VENV)/installed  ## Run the contract of payment providers against Stripe itself; STRIPE_TEST_KEY=sk_test_…
	@if [ -z "$$STRIPE_TEST_KEY" ]; then echo "Set STRIPE_TEST_KEY to a test key of Stripe to run these tests."; \
	else $(BIN)/python -m pytest tests/payments/providers/stripe_sandbox.py $(PYTEST); fi

standins: $(VENV)/standins/installed $(VENV)/standins/webhooks/installed $(VENV)/standins/typescript/installed  ## Install what the tests run from PyPI and npm: stand-ins for Stripe, receivers of webhooks, TypeScript

check: $(VENV)/installed  ## Lint, check types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

split: $(VENV)/installed  ## Serve with a process for each module, over RabbitMQ; SPLIT=--once ends after two orders
	@$(BIN)/python -m tools.cluster $(SPLIT)

chaos: $(VENV)/installed  ## Inject faults into processes, threads, disks and the clock under load; DURATION= seconds, SEED= to repeat, CHAOS=--split
	@$(BIN)/python -m tools.chaos --duration $(or $(DURATION),120) --seed $(SEED) $(CHAOS)

simulate: $(VENV)/installed  ## Run seeds of the simulation: SEEDS= how many, SEED= the first or only one, STEPS=; SIMULATE=--mutations for broken copies
	@$(BIN)/python -m tools.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) $(SIMULATE)

bench: $(VENV)/benched  ## Measure speed beside plain peers, about 10 minutes; BENCH=--quick for a short check; needs wrk
	@$(BIN)/python -m tools.bench $(BENCH)

profile: $(VENV)/benched  ## Profile a worker under load, into .orderflow/profile/; PROFILE="--kind one"; needs wrk
	@$(BIN)/python -m tools.bench profile $(PROFILE)

fuzz: $(VENV)/installed  ## Attack the API with thousands of random requests; EXAMPLES= an operation, SEED= to repeat
	@$(BIN)/python -m tests.security.fuzz --examples $(or $(EXAMPLES),500) --seed $(or $(SEED),1)

audit: $(VENV)/installed  ## Search for known weaknesses in the code (bandit) and the locked packages (pip-audit)
	@$(BIN)/python -m tests.security.audit $(AUDIT)

screenshots: $(VENV)/installed  ## Take the pictures of the console in docs/images/; needs Debian's chromium
	@$(BIN)/python -m tests.console.screenshots

UV_COMPILE := $(BIN)/uv pip compile -q --no-config --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --default-index https://pypi.org/simple --custom-compile-command "make lock" $(UPGRADE)

lock: $(VENV)/installed  ## Update the lock files from setup.cfg; UPGRADE=--upgrade for the newest versions
	$(BIN)/pip install -q uv
	$(UV_COMPILE) --extra stripe setup.cfg -o requirements.lock
	$(UV_COMPILE) --extra stripe --extra embedded --extra source -c requirements.lock setup.cfg -o requirements-run.lock
	$(UV_COMPILE) --extra test --extra embedded -c requirements.lock setup.cfg -o requirements-test.lock
	$(UV_COMPILE) --extra bench --extra embedded -c requirements-test.lock setup.cfg -o requirements-bench.lock
	$(UV_COMPILE) $(STANDIN)/requirements.in -o $(STANDIN)/requirements.lock

picture: $(VENV)/installed  ## Draw docs/images/architecture.svg from the code
	@$(BIN)/python -m docs.picture

clean:  ## Remove installed and built files, but no data
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# What `make run` needs: the packages of the image, MongoDB and the command `orderflow`.
$(VENV)/runnable: setup.cfg requirements-run.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Orderflow needs Python 3.11 or later: make PYTHON=python3.13 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "Python's venv is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "Installing Orderflow and MongoDB into $(VENV)/: 310 MB, only this first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install $(PIP_OUTPUT) --require-hashes -r requirements-run.lock \
		|| { echo "Where a package does not exist for this system, 'docker compose up' runs Orderflow in containers instead."; exit 1; }
	@$(BIN)/pip install -q $(PIP_OUTPUT) --no-deps --no-build-isolation -e .
	@touch $@

PIP_OUTPUT := --disable-pip-version-check --no-warn-script-location

$(VENV)/installed: $(VENV)/runnable requirements-test.lock
	@echo "Installing the packages of the tests into $(VENV)/: another 900 MB"
	@$(BIN)/pip install -q $(PIP_OUTPUT) --require-hashes -r requirements-test.lock
	@touch $@

STANDIN := tests/standins/stripe

# Programs of their own, which nothing of this project imports. Without npm, the tests that need them say so and are skipped.
$(VENV)/standins/installed: $(STANDIN)/requirements.lock $(STANDIN)/package-lock.json
	@mkdir -p $(VENV)/standins
	@if ! command -v npm >/dev/null; then echo "npm is missing: what stands in for Stripe is not installed"; exit 0; fi; \
	set -e; $(PYTHON) -m venv $(VENV)/standins/localstripe; \
	$(VENV)/standins/localstripe/bin/pip install -q --require-hashes -r $(STANDIN)/requirements.lock; \
	cp $(STANDIN)/package.json $(STANDIN)/package-lock.json $(VENV)/standins; \
	npm ci --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/standins; \
	touch $@

RECEIVERS := tests/standins/webhooks

# Libraries that verify webhooks, in a folder of their own.
$(VENV)/standins/webhooks/installed: $(RECEIVERS)/package-lock.json
	@mkdir -p $(VENV)/standins/webhooks
	@if ! command -v npm >/dev/null; then echo "npm is missing: the receivers of webhooks are not installed"; exit 0; fi; \
	set -e; cp $(RECEIVERS)/package.json $(RECEIVERS)/package-lock.json $(VENV)/standins/webhooks; \
	npm ci --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/standins/webhooks; \
	touch $@

TYPESCRIPT := tests/standins/typescript

# What makes the TypeScript client of the OpenAPI document, checks it and sends its requests.
$(VENV)/standins/typescript/installed: $(TYPESCRIPT)/package-lock.json
	@mkdir -p $(VENV)/standins/typescript
	@if ! command -v npm >/dev/null; then echo "npm is missing: the compiler of TypeScript is not installed"; exit 0; fi; \
	set -e; cp $(TYPESCRIPT)/package.json $(TYPESCRIPT)/package-lock.json $(VENV)/standins/typescript; \
	npm ci --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/standins/typescript; \
	touch $@

# Helm, out of a package of AWS's: no package on PyPI has it by itself. Elsewhere the tests take a `helm` that is on the PATH.
$(VENV)/bin/helm: tests/deploy/helm.lock | $(VENV)/installed
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "helm is for Linux on x86-64 only: it is not installed"; exit 0; }; \
	set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(BIN)/pip download -q --disable-pip-version-check --no-deps --require-hashes -d $$folder -r tests/deploy/helm.lock; \
	$(BIN)/python -m zipfile -e $$folder/*.whl $$folder; \
	tar -xzf $$folder/aws_cdk/*/_jsii/*.tgz -C $$folder package/lib/layer.zip; \
	$(BIN)/python -m zipfile -e $$folder/package/lib/layer.zip $$folder; \
	install -m 755 $$folder/helm/helm $@

$(VENV)/benched: $(VENV)/installed requirements-bench.lock
	$(BIN)/pip install -q --require-hashes -r requirements-bench.lock
	@touch $@
