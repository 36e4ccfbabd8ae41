# Bare `make` lists the targets. Needs GNU make 3.81 (what macOS has) or later, and Python.

## ARGS: more arguments for the command of demo, up, train_classifier, evaluate, run_server, ...
ARGS ?=
## TESTS: what `make test` runs, e.g. TESTS=tests/unit or TESTS="tests -k label"
TESTS ?= tests
## PORT: gRPC port of run_server (8500)
PORT ?= 8500
## REST_PORT: REST port of run_server (8501)
REST_PORT ?= 8501
## ENDPOINT: gRPC host:port that `make conformance` runs on (it starts a server of its own)
ENDPOINT ?=
## REST: REST host:port of ENDPOINT
REST ?=
## MODELS: directory of `make conformance-models` that ENDPOINT serves, for cases that change it
MODELS ?=
## SERVER: command of a server for `make conformance` to start, flags are added
SERVER ?=
## DIR: where `make conformance-models` writes
DIR ?=
## PYTHON: interpreter to build .venv with (the first that fits of python3, python3.13, 3.12, 3.11)
PYTHON ?=

VENV := .venv
BIN := $(VENV)/bin
MODEL := models/chopstick
SHELL_SCRIPTS := .ci/run $(wildcard scripts/*.sh)
# Its name holds the place of the tree: a copied or moved .venv is seen and built again.
STAMP := $(VENV)/.installed-$(shell printf '%s' '$(CURDIR)' | cksum | cut -d ' ' -f 1)

.DEFAULT_GOAL := help

.PHONY: help
help:
	@awk 'BEGIN { print "Usage: make TARGET [VARIABLE=value]" } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z_-]+:.*## / { split($$0, part, ":.*## "); printf "  %-18s %s\n", part[1], part[2] } \
		/^## [A-Z_]+: / { variable = substr($$2, 1, length($$2) - 1); sub(/^## [A-Z_]+: /, ""); variables = variables sprintf("  %-18s %s\n", variable, $$0) } \
		END { printf "\nVariables\n%s", variables }' $(MAKEFILE_LIST)

##@ Start here
.PHONY: setup demo up
setup: $(STAMP) ## Make .venv what requirements.lock says (every target below does it by itself)

$(STAMP): requirements.lock pyproject.toml scripts/setup.sh
	@PYTHON='$(PYTHON)' scripts/setup.sh $@

demo: setup ## Show in five measured results why a model needs a mesh
	$(BIN)/chopstick demo $(ARGS)

up: setup ## Three replicas behind a gateway with a live table, until Ctrl-C
	$(BIN)/chopstick up $(ARGS)

##@ Model and server
.PHONY: train_classifier evaluate run_server build_image
train_classifier: setup ## Train and export the next version into models/chopstick/
	$(BIN)/chopstick train $(ARGS)

evaluate: setup ## Cross-validate every trainer and say which is worth deploying
	$(BIN)/chopstick evaluate $(ARGS)

run_server: setup ## Serve models/chopstick as TensorFlow Serving would (gRPC PORT, REST REST_PORT)
	@test -n "$$(ls $(MODEL) 2>/dev/null)" || $(MAKE) train_classifier ARGS=
	$(BIN)/tensorflow_model_server --port=$(PORT) --rest_api_port=$(REST_PORT) \
		--model_name=chopstick --model_base_path="$(CURDIR)/$(MODEL)" $(ARGS)

build_image: ## Build the container images (not there yet: says what is missing)
	@echo "error: there is no Dockerfile to build: serving/images/ comes with the container images" >&2
	@for tool in docker podman buildah; do command -v $$tool >/dev/null && exit 1; done; \
		echo "  and no builder is installed: one of docker, podman, buildah will be needed" >&2; exit 1

##@ Checks
.PHONY: test test-fast conformance conformance-models abuse fuzz soak bench bench-peers lint format check-generated tools
test: setup ## Run every test in parallel and say what was skipped and why
	$(BIN)/python -m pytest -n auto $(TESTS)

test-fast: setup ## Run the unit tests, stop at the first failure
	$(BIN)/python -m pytest -n auto -x tests/unit

# SERVER starts another server in place of the embedded one; tests/conformance/README.md tells more.
conformance: setup ## Hold the server, or the one at ENDPOINT and REST, to what TensorFlow Serving does
	$(BIN)/python -m tests.conformance $(if $(ENDPOINT),--endpoint '$(ENDPOINT)') \
		$(if $(REST),--rest '$(REST)') $(if $(MODELS),--models '$(MODELS)') \
		$(if $(SERVER),--server '$(SERVER)') $(if $(ENDPOINT),,--full) $(ARGS)

conformance-models: setup ## Write the models of `make conformance` and a models.config into DIR
	@test -n '$(DIR)' || { echo "error: DIR is not set: make conformance-models DIR=directory" >&2; exit 1; }
	$(BIN)/python -m tests.conformance.models '$(DIR)' --full

abuse: setup ## Attack a running server in over 200 ways; wants a quiet machine
	$(BIN)/python -m pytest -n auto -m abuse tests/abuse

fuzz: setup ## Give the parsers 200,000 inputs (ARGS="--inputs N --seed N TARGET"), about 5 minutes
	$(BIN)/python -m tests.fuzz.run $(ARGS)

soak: setup ## 50,000 good and bad requests, 200 version switches: is anything left behind? 2 minutes
	$(BIN)/python -m tests.abuse.soak $(ARGS)

bench: setup ## Measure the server and the client, into docs/benchmarks.md, 8 minutes
	$(BIN)/python -m tests.bench $(ARGS)

bench-peers: setup ## Measure against MLServer and KServe's server, from .bench/ (ARGS=--lock: new pins)
	$(BIN)/python -m tests.bench peers $(ARGS)

lint: setup ## Ruff, mypy strict, shellcheck, shfmt
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy scripts
	$(BIN)/shellcheck $(SHELL_SCRIPTS)
	$(BIN)/shfmt -d -i 2 -ci $(SHELL_SCRIPTS)

format: setup ## Let Ruff and shfmt rewrite what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/shfmt -w -i 2 -ci $(SHELL_SCRIPTS)

check-generated: setup ## Fail if `make generate` would change a file
	$(BIN)/python -m serving.protocol.generate --check

tools: setup ## Bring the checkers that are not on PyPI into .tools/ (versions.yaml says which)
	@$(BIN)/python scripts/tools.py

##@ Upkeep
.PHONY: generate lock clean distclean
generate: setup ## Regenerate the wire contract in serving/protocol/
	$(BIN)/python -m serving.protocol.generate

# --upgrade is left to ARGS, so that adding one package moves no other.
lock: setup ## Resolve requirements.lock again (ARGS=--upgrade for the newest of everything)
	$(BIN)/uv pip compile pyproject.toml --extra all --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet $(ARGS) -o requirements.lock

clean: ## Remove caches and build results
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find model serving tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Also remove .venv, .tools, .bench and the trained models
	rm -rf $(VENV) .tools .bench models
