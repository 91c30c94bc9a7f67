# Doors to kubekiln; each is a `kubekiln …` verb or a test run. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON  ?= python3
IMAGE   ?= debian-13
CLUSTER ?=
TARGET  ?=
NODES   ?=
CPUS    ?=
MEMORY  ?=
DISK    ?=

# What tests leave to chance (the order of boots) is another at each commit, and the same again there.
export KUBEKILN_TEST_SEED ?= $(shell printf %d 0x$$(git rev-parse --short=7 HEAD 2>/dev/null || echo 1))

BIN := .venv/bin
KUBEKILN := $(BIN)/kubekiln
PYTEST := $(BIN)/pytest
# Real machines and servers: once more what failed; the summary shows how it failed at first.
REAL := $(PYTEST) -v --reruns 1
ALONE := $(REAL) -m "alone and not vm" tests/e2e
# Container machines and platforms' servers wait as much as they work.
# In the order of files: xdist would begin those of one long test last.
TOGETHER := $(REAL) -n 3 --dist loadfile --no-loadscope-reorder
SHAPE = $(if $(NODES),--nodes $(NODES)) $(if $(CPUS),--cpus $(CPUS)) \
  $(if $(MEMORY),--memory $(MEMORY)) $(if $(DISK),--disk $(DISK))

.PHONY: help
help: ## list the doors
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use
.PHONY: up down status image nodes
# Who uses it needs no linters and no platforms' servers.
up down status image nodes doctor: SCOPES = bake qemu nspawn
up: setup ## [CLUSTER=solo] [TARGET=qemu] [NODES= CPUS= MEMORY= DISK=] bake, boot, wait until Ready
	@$(KUBEKILN) up $(CLUSTER) $(if $(TARGET),--target $(TARGET)) $(SHAPE)

down: setup ## [CLUSTER=the only one] stop the machines and remove them; state and image stay
	@$(KUBEKILN) down $(CLUSTER)

status: setup ## [CLUSTER=all] what runs, how far its boot is
	@$(KUBEKILN) status $(CLUSTER)

image: setup ## [IMAGE=debian-13] bake the golden image
	@$(KUBEKILN) image bake $(IMAGE)

nodes: setup ## [CLUSTER=solo] write user-data, meta-data, network-config and seed ISO per node
	@$(KUBEKILN) cluster render $(CLUSTER)

##@ Set up
.PHONY: setup doctor clean
setup: ## install what this host lacks (says what; here sudo is for packages only), make .venv
	@$(PYTHON) kubekiln/bootstrap.py $(SCOPES)

doctor: setup ## what this host can do, and how to get what it lacks
	@$(KUBEKILN) doctor

clean: ## remove build/ and .venv; state/ (keys!) and the cache stay
	@if [ -x $(KUBEKILN) ]; then $(KUBEKILN) down --all; fi
	rm -rf build .venv

##@ Develop
# Tests boot up to nine container machines at once.
test e2e e2e-vm: SCOPES = bake qemu nspawn check many-machines
.PHONY: fmt lint type fast check test platforms e2e e2e-vm golden docs bench-render bench-bake bench-upload bench-bootstrap
fmt: setup ## format Python and shell
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: setup ## ruff, import rules
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/lint-imports

type: setup ## mypy --strict
	@$(BIN)/mypy

fast: setup ## unit, golden, element and house tests; no network, no root
	@$(PYTEST) -q -n auto --timeout 120 tests/unit tests/golden tests/elements tests/house

check: setup ## lint + types + fast tests, side by side
	@$(MAKE) --no-print-directory --jobs=3 lint type fast

# Without any cache the components compile for half an hour: no test is to wait for it.
.PHONY: components
components: setup
	@$(KUBEKILN) image fetch

test: setup ## check, bake and boot for real, and the platforms whose servers need no installing
	@$(MAKE) --no-print-directory --jobs=4 lint type fast components
	@$(ALONE)
	@$(TOGETHER) -m "not alone and not vm and not installs" tests/e2e tests/platforms

e2e: components ## the bakes and boots alone
	@$(ALONE)
	@$(TOGETHER) -m "not alone and not vm" tests/e2e

platforms: components ## image formats, and delivery to every platform's test server
	@$(TOGETHER) tests/platforms

e2e-vm: setup ## more in QEMU: examples of several machines, clouds, reboots; long without KVM
	@$(PYTEST) -v -m vm tests/e2e

golden: setup ## rewrite the golden files (the rewriting run fails)
	@$(PYTEST) -q tests/golden --golden-update

docs: setup ## write the generated reference pages and JSON Schemas
	@$(BIN)/python -m kubekiln.operations.reference

bench-render: setup ## [NODES=5000] measure the rendering of a large cluster
	@$(BIN)/python -m bench.render --nodes $(or $(NODES),5000)

bench-bake: setup ## [KUBERNETES=1.36.3] [COMPILE=1] measure the bakes and boots of the table in docs/performance.md
	@$(BIN)/python bench/bake.py $(if $(KUBERNETES),--kubernetes $(KUBERNETES)) $(if $(COMPILE),--compile)

bench-upload: setup ## images to eight platforms' test servers: against the platforms' own clients
	@$(BIN)/python -m bench.upload

bench-bootstrap: setup ## units against kubeadm: seconds to Ready on equal container machines
	@$(BIN)/python -m bench.bootstrap
