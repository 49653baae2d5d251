# Two commands do everything: `make demo` and `make test`. Each installs what it
# needs: Python packages into .venv, the cluster's programs and the Go toolchain
# (where the machine has none) into ~/.cache/osc.peerpods, and, as root, Debian's
# container tools.

SHELL := /bin/bash
PYTHON ?= python3
CLOUD ?= aws
PYTEST := .venv/bin/python -m pytest -n 2 --dist loadfile

# Installed where they are missing and we are root; without them `make demo` runs
# the webhook and the agent as plain processes.
CONTAINER_PACKAGES := podman buildah runc iptables netavark aardvark-dns catatonit mmdebstrap

.PHONY: help demo test lint unit integration fuzz bench-modules bench-webhook bench-admission bench-agent images packages h2load requirements clean

help:
	@echo "make demo          a bare cluster to running peer pods, on this machine"
	@echo "                   (CLOUD=azure: on Azure instead of AWS; KEEP=1: leave it running)"
	@echo "make test          everything: lint, unit, integration, the demo on both clouds"
	@echo "make lint unit integration    its parts"
	@echo "make fuzz          a million mutated reviews against the webhook (COUNT=…; SEED=… repeats a run)"
	@echo "make bench-modules   our modules beside amazon.aws, kubernetes.core and the command lines"
	@echo "                     (CLOUD=azure: beside azure.azcollection and az)"
	@echo "make bench-webhook   our webhook's answers per second (PEER=URL: beside another webhook's)"
	@echo "make bench-admission pod creations per second without a mutation, with mode policy, with our webhook"
	@echo "                     (PEER=URL PEER_CA=FILE: and with another)"
	@echo "make bench-agent     5,000 nodes that advertise their slots: our agent beside a controller by client-go,"
	@echo "                     curl, and libraries (NODES=…; AGENT=DIR: another checkout's agent)"
	@echo "make images        build the webhook's and the agent's image"
	@echo "make requirements  pin all requirements anew, those of the containers by hash"
	@echo "make clean         remove .venv and build/ (the cache in ~/.cache/osc.peerpods stays)"

demo: .venv/installed packages
	CLOUD=$(CLOUD) .venv/bin/python -m tests.demo

test: lint unit integration
	$(MAKE) --no-print-directory demo CLOUD=aws
	$(MAKE) --no-print-directory demo CLOUD=azure

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	ANSIBLE_COLLECTIONS_PATH=collections .venv/bin/ansible-lint --offline -q

unit: .venv/installed
	$(PYTEST) -m "not integration"

integration: .venv/installed packages
	$(PYTEST) -m integration

fuzz: .venv/installed
	PYTHONPATH=containers/webhook:containers/webhook/tests .venv/bin/python -m fuzz.run \
	  $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) $(if $(CASE),--case $(CASE))

bench-modules: .venv/installed
	.venv/bin/python -m benchmarks.modules --cloud $(CLOUD)

bench-webhook: .venv/installed h2load
	.venv/bin/python -m benchmarks.webhook $(if $(PEER),--peer $(PEER))

bench-admission: .venv/installed h2load
	.venv/bin/python -m benchmarks.admission $(if $(PEER),--peer $(PEER) --peer-ca $(PEER_CA))

bench-agent: .venv/installed h2load
	.venv/bin/python -m benchmarks.agent $(if $(NODES),--nodes $(NODES)) $(if $(AGENT),--agent $(AGENT))

images: .venv/installed packages
	.venv/bin/python -m tests.cluster.images

packages:
	$(call install,podman buildah runc iptables catatonit mmdebstrap,$(CONTAINER_PACKAGES),\
	  To run the webhook and the agent as containers,true)

h2load:
	$(call install,h2load,nghttp2-client,h2load is missing,false)

# $(call install,COMMANDS,PACKAGES,WHY,STATUS): Debian's PACKAGES where one of COMMANDS is missing; who
# is not root is told WHY and how, and goes on if STATUS is true.
define install
	@if ! (for command in $(1); do command -v $$command >/dev/null || exit 1; done); then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing from Debian: $(2)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -qq --no-install-recommends $(2) >/dev/null; \
	  else \
	    echo "$(strip $(3)): sudo apt-get install $(2)"; $(4); \
	  fi; \
	fi
endef

.venv/installed: tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed ($(PYTHON) is older or missing): make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
	  || { echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv pip install --quiet --python .venv -r tests/requirements.txt
	touch $@

requirements:
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header \
	  --all-extras tests/requirements.in containers/*/pyproject.toml -o tests/requirements.txt
	for container in containers/*; do \
	  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header $$container/pyproject.toml -o $$container/requirements.txt; \
	  echo cyclonedx-bom | .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate - -o $$container/requirements-sbom.txt; \
	done

clean:
	rm -rf .venv build
