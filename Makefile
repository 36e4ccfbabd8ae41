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
## CASE: words in names of the cases to run, of e2e and e2e-mesh, e.g. CASE="rollout drain"
CASE ?=
## FULL: FULL=1 sends 10,000 requests a case (e2e, e2e-mesh) and writes docs/benchmarks.md
FULL ?=
## IMAGES: which images (all four), e.g. IMAGES=chopstick-health; load and push take NAME:TAG, too
IMAGES ?=
## MODEL_VERSION: version in models/chopstick that chopstick-classifier holds (the newest)
MODEL_VERSION ?=
## REGISTRY: where `make push` pushes to, host and path, e.g. REGISTRY=registry.example/team
REGISTRY ?=
## OVERLAY: overlay that `make pin` writes digests into, e.g. OVERLAY=prod
OVERLAY ?=
## PYTHON: interpreter to build .venv with (the first that fits of python3, python3.13, 3.12, 3.11)
PYTHON ?=

VENV := .venv
BIN := $(VENV)/bin
MODEL := models/chopstick
SHELL_SCRIPTS := .ci/run .ci/image-build $(wildcard scripts/*.sh serving/images/*/*.sh)
IMAGE_COMMAND := $(BIN)/python -m scripts.images
VERSION_FLAG = $(if $(MODEL_VERSION),--model-version='$(MODEL_VERSION)')
# Its name holds the place of the tree: a copied or moved .venv is seen and built again.
STAMP := $(VENV)/.installed-$(shell printf '%s' '$(CURDIR)' | cksum | cut -d ' ' -f 1)

.DEFAULT_GOAL := help

.PHONY: help
help:
	@awk 'BEGIN { print "Usage: make TARGET [VARIABLE=value]" } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z0-9_-]*:.*## / { split($$0, part, ":.*## "); printf "  %-18s %s\n", part[1], part[2] } \
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
.PHONY: train_classifier evaluate run_server
train_classifier: setup ## Train and export the next version into models/chopstick/
	$(BIN)/chopstick train $(ARGS)

evaluate: setup ## Cross-validate every trainer and say which is worth deploying
	$(BIN)/chopstick evaluate $(ARGS)

run_server: setup ## Serve models/chopstick as TensorFlow Serving would (gRPC PORT, REST REST_PORT)
	@test -n "$$(ls $(MODEL) 2>/dev/null)" || $(MAKE) train_classifier ARGS=
	$(BIN)/tensorflow_model_server --port=$(PORT) --rest_api_port=$(REST_PORT) \
		--model_name=chopstick --model_base_path="$(CURDIR)/$(MODEL)" $(ARGS)

##@ Container images
# IMAGE_BUILD, IMAGE_STORE and IMAGE_LOAD are read from the environment; docs/images.md tells more.
.PHONY: build_image load-images push pin sbom images-size
build_image: setup ## Build the container images with docker, podman or buildah (trains if there is no model)
	$(IMAGE_COMMAND) build $(VERSION_FLAG) $(ARGS) $(IMAGES)

load-images: setup ## Put the images into the kind or minikube cluster of the current context
	$(IMAGE_COMMAND) load $(VERSION_FLAG) $(ARGS) $(IMAGES)

push: setup ## Push the images to REGISTRY and note their digests
	$(IMAGE_COMMAND) push $(VERSION_FLAG) --registry='$(REGISTRY)' $(ARGS) $(IMAGES)

pin: setup ## Write the digests of what was pushed beside the tags of OVERLAY
	$(IMAGE_COMMAND) pin '$(OVERLAY)'

sbom: setup ## List what is in each image: CycloneDX files in build/sbom/
	$(IMAGE_COMMAND) sbom $(VERSION_FLAG) $(ARGS) $(IMAGES)

images-size: setup ## Show the images' compressed sizes; fails where one is over its limit
	$(IMAGE_COMMAND) size $(VERSION_FLAG) $(ARGS) $(IMAGES)

##@ Linkerd
# With your `linkerd` or `helm`; docs/mesh.md tells more.
.PHONY: mesh mesh-cert mesh-check
mesh: setup ## Install or upgrade Linkerd after a preflight (ARGS=--ha, ARGS=--dry-run)
	$(BIN)/python -m scripts.mesh install $(ARGS)

mesh-cert: setup ## Make its trust anchor and issuer in .mesh/certificates (ARGS=--rotate-issuer)
	$(BIN)/python -m scripts.mesh certificates $(ARGS)

mesh-check: setup ## Run linkerd check on the control plane and on every meshed namespace
	$(BIN)/python -m scripts.mesh check $(ARGS)

##@ Checks
.PHONY: test test-fast test-images conformance conformance-models e2e e2e-mesh abuse fuzz soak bench bench-peers lint format check-generated tools
test: setup ## Run every test in parallel and say what was skipped and why
	$(BIN)/python -m pytest -n auto $(TESTS)

test-fast: setup ## Run the unit tests, stop at the first failure
	$(BIN)/python -m pytest -n auto -x tests/unit

# STAND_IN=1 where TensorFlow Serving's image can't be had.
test-images: setup ## Build the container images and hold them to docs/images.md; 2 minutes warm
	$(BIN)/python -m pytest -m builder tests/images

# SERVER starts another server in place of the embedded one; tests/conformance/README.md tells more.
conformance: setup ## Hold the server, or the one at ENDPOINT and REST, to what TensorFlow Serving does
	$(BIN)/python -m tests.conformance $(if $(ENDPOINT),--endpoint '$(ENDPOINT)') \
		$(if $(REST),--rest '$(REST)') $(if $(MODELS),--models '$(MODELS)') \
		$(if $(SERVER),--server '$(SERVER)') $(if $(ENDPOINT),,--full) $(ARGS)

conformance-models: setup ## Write the models of `make conformance` and a models.config into DIR
	@test -n '$(DIR)' || { echo "error: DIR is not set: make conformance-models DIR=directory" >&2; exit 1; }
	$(BIN)/python -m tests.conformance.models '$(DIR)' --full

# tests/cluster/README.md tells what it reads from the environment.
e2e: setup ## Test on the cluster of KUBECONFIG, building and loading what it needs; 15 minutes
	$(BIN)/python -m tests.cluster $(if $(FULL),--full) $(ARGS) $(CASE)

# tests/mesh/README.md tells what it wants of the cluster.
e2e-mesh: setup ## Test prod behind the Linkerd of the cluster; skips where there is none; 20 minutes
	$(BIN)/python -m tests.mesh $(if $(FULL),--full) $(ARGS) $(CASE)

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
	$(IMAGE_COMMAND) locks

clean: ## Remove caches and build results
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find model serving tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Also remove .venv, .tools, .bench and the trained models
	rm -rf $(VENV) .tools .bench models
