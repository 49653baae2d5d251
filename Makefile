# Two commands do everything: `make demo` and `make test`. Each installs what it
# needs: Python packages into .venv, the cluster's programs and the Go toolchain
# (where the machine has none) into ~/.cache/osc.peerpods, and, as root, Debian's
# container tools.

SHELL := /bin/bash
PYTHON ?= python3
CLOUD ?= aws
# A part of the tests, for those who have two machines: SHARD=1/2 and 2/2.
SHARD ?= 1/1
SHARD_NUMBER := $(word 1,$(subst /, ,$(SHARD)))
SHARDS := $(word 2,$(subst /, ,$(SHARD)))
PYTEST := .venv/bin/python -m pytest -n 2 --dist loadfile --shard $(SHARD)

# Installed where they are missing and we are root; without them `make demo` runs
# the webhook and the agent as plain processes.
CONTAINER_PACKAGES := podman buildah runc iptables netavark aardvark-dns catatonit mmdebstrap

.PHONY: help demo demo-aws demo-azure-1.8 test checks lint sanity docs unit integration molecule molecule-default fuzz bench-modules bench-webhook bench-admission bench-agent bench-limit bench-site collection images programs packages browser h2load requirements clean

help:
	@echo "make demo          a bare cluster to running peer pods, on this machine"
	@echo "                   (CLOUD=azure: on Azure instead of AWS; OPERATOR=1.8: with the operator's"
	@echo "                   first generation; KEEP=1: leave it running)"
	@echo "make test          everything: lint, unit, sanity, docs, integration, the demo on both clouds and generations, molecule's default"
	@echo "                   (SHARD=1/2 and, on another machine, SHARD=2/2: a part of the tests)"
	@echo "make lint sanity docs unit integration    its parts; the docs site is build/docs/html/index.html"
	@echo "                   (CORES='2.17 2.21': ansible-test's sanity tests by these instead)"
	@echo "make molecule      all of molecule's scenarios, some 10 minutes (SCENARIO=…: one)"
	@echo "make fuzz          a million mutated reviews against the webhook (COUNT=…; SEED=… repeats a run)"
	@echo "make bench-modules   our modules beside amazon.aws, kubernetes.core and the command lines"
	@echo "                     (CLOUD=azure: beside azure.azcollection and az)"
	@echo "make bench-webhook   our webhook's answers per second (PEER=URL: beside another webhook's)"
	@echo "make bench-admission pod creations per second without a mutation, with mutating_policy, with our webhook"
	@echo "                     (PEER=URL PEER_CA=FILE: and with another)"
	@echo "make bench-agent     5,000 nodes that advertise their slots: our agent beside a controller by client-go,"
	@echo "                     curl, and libraries (NODES=…; AGENT=DIR: another checkout's agent)"
	@echo "make bench-limit   a limit change on 500 nodes with 1,000 peer pods, ours and the documented way"
	@echo "                   (NODES=…; OPERATOR=1.12: with an older operator)"
	@echo "make bench-site    the whole site on 500 workers: time and calls, by role (WORKERS=…)"
	@echo "make collection    build the tarball that is released, in build/"
	@echo "make images        build the webhook's and the agent's image"
	@echo "make requirements  pin all requirements anew, those of the containers by hash"
	@echo "make clean         remove .venv and build/ (the cache in ~/.cache/osc.peerpods stays)"

demo: .venv/installed packages
	CLOUD=$(CLOUD) OPERATOR=$(OPERATOR) .venv/bin/python -m tests.demo

# What ends soonest comes first, and the first that fails ends it.
STAGES_OF_FIRST := $(if $(filter 1,$(SHARD_NUMBER)),checks)
STAGES_OF_LAST := $(if $(filter $(SHARDS),$(SHARD_NUMBER)),demo-aws demo-azure-1.8 molecule-default)
STAGES ?= $(STAGES_OF_FIRST) unit integration $(STAGES_OF_LAST)

test:
	@took=""; \
	for stage in $(STAGES); do \
	  echo "== $$stage"; \
	  began=$$SECONDS; \
	  $(MAKE) --no-print-directory $$stage || { echo "== $$stage failed after $$((SECONDS - began)) s"; exit 1; }; \
	  took+="$$(printf '%6d s  %s' $$((SECONDS - began)) $$stage)"$$'\n'; \
	done; \
	printf '%s%6d s  all\n' "$$took" $$SECONDS

# Side by side, since each of them is busy on one core alone.
checks: .venv/installed
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint sanity docs

demo-aws:
	$(MAKE) --no-print-directory demo CLOUD=aws

demo-azure-1.8:
	$(MAKE) --no-print-directory demo CLOUD=azure OPERATOR=1.8

molecule-default:
	$(MAKE) --no-print-directory molecule SCENARIO=default

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	PYTHONPATH=collections:containers/webhook:containers/node_capacity .venv/bin/lint-imports --no-cache --no-logo
	ANSIBLE_COLLECTIONS_PATH=collections .venv/bin/ansible-lint --offline -q
	.venv/bin/antsibull-changelog lint
	.venv/bin/reuse lint --quiet || .venv/bin/reuse lint

sanity: .venv/installed
	.venv/bin/python -m tests.sanity $(CORES)

# The documentation is checked against that of the collections it refers to; of the many more that PyPI's
# `ansible` has, each would take its time.
docs: export ANSIBLE_COLLECTIONS_SCAN_SYS_PATH := false
docs: export PATH := $(CURDIR)/.venv/bin:$(PATH)
docs: .venv/installed
	rm -rf build/docs
	mkdir -p build/docs/rst build/docs/collections/ansible_collections
	ln -s $$(python -c 'import ansible_collections; print(*ansible_collections.__path__)')/{amazon,kubernetes} \
	  build/docs/collections/ansible_collections
	ANSIBLE_COLLECTIONS_PATH=build/docs/collections antsibull-docs lint-collection-docs \
	  --plugin-docs --validate-collection-refs all .
	ANSIBLE_COLLECTIONS_PATH=collections:build/docs/collections antsibull-docs collection \
	  --use-current --squash-hierarchy --fail-on-error --dest-dir build/docs/rst osc.peerpods
	sphinx-build --quiet --fail-on-warning --keep-going -c docs/docsite build/docs/rst build/docs/html

unit: .venv/installed
	$(PYTEST) -m "not integration"

# Before the tests, not beside them: a compiler takes all of the machine.
programs: .venv/installed
	.venv/bin/python -c 'from tests.cluster import binaries, cert_manager, promtool; \
	  binaries.binaries(), cert_manager.cert_manager(), promtool.promtool()'

# conftest.py has the slow files first; xdist would begin with those of many tests.
integration: .venv/installed programs packages browser
	$(PYTEST) --no-loadscope-reorder --durations=25 -m integration

molecule: .venv/installed
	PATH=$(CURDIR)/.venv/bin:$$PATH molecule test $(if $(SCENARIO),--scenario-name $(SCENARIO),--all)

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

bench-limit: .venv/installed
	.venv/bin/python -m benchmarks.limit $(if $(NODES),--nodes $(NODES)) $(if $(OPERATOR),--operator $(OPERATOR))

bench-site: .venv/installed
	.venv/bin/python -m benchmarks.site $(if $(WORKERS),--workers $(WORKERS))

collection: .venv/installed
	.venv/bin/ansible-galaxy collection build --force --output-path build

images: .venv/installed packages
	.venv/bin/python -m tests.cluster.images

packages:
	$(call install,podman buildah runc iptables catatonit mmdebstrap,$(CONTAINER_PACKAGES),\
	  To run the webhook and the agent as containers,true)

# Without one, the tests that look at the report's page are skipped.
browser:
	-$(call install,chromium,chromium fonts-liberation,To see the report's page as a reader does,true)

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
	@# Compiled now: where Python may write no bytecode, each of the many modules of a run would compile anew.
	.venv/bin/uv pip install --quiet --compile-bytecode --python .venv -r tests/requirements.txt
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
