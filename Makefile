# The two main commands are `make demo` and `make test`. Each installs what it requires: Python packages into .venv,
# the programs of the test cluster and, if the machine has none, the Go toolchain into ~/.cache/osc.peerpods, and, as
# root, the container tools of the distribution.

SHELL := /bin/bash
# Every process of the tests would compile the modules of this project again.
unexport PYTHONDONTWRITEBYTECODE
# The distribution's Python, if it is new enough: it runs these tests in a fifth less time than one that a version
# manager compiled with its defaults.
PYTHON ?= $(shell /usr/bin/python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo /usr/bin/python3 || echo python3)
CLOUD ?= aws
# To split the tests between two machines: SHARD=1/2 and SHARD=2/2.
SHARD ?= 1/1
# More processes than CI has cores: tests also wait. conftest.py sorts the slow files first; by default, xdist would start
# with the files that have the most tests.
PYTEST := .venv/bin/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder --shard $(SHARD)

# Installed as root if they are missing; without them `make demo` runs the webhook and the agent as plain processes.
CONTAINER_PACKAGES := podman buildah runc iptables netavark aardvark-dns catatonit mmdebstrap

.PHONY: help demo test checks style lint sanity docs unit integration coverage screenshots molecule fuzz bench-modules bench-webhook bench-admission bench-agent bench-limit bench-site collection images release publish programs packages browser h2load requirements clean

help:
	@echo "make demo             set up peer pods on a cluster on this machine, and show the result"
	@echo "                      (CLOUD=azure: on Azure instead of AWS; CREDENTIALS=token: with tokens instead of keys;"
	@echo "                      OPERATOR=1.8: with the first generation of the operator; KEEP=1: keep it running)"
	@echo "make test             all tests: lint, sanity, docs, unit, and integration, which includes the demo on both clouds"
	@echo "                      (SHARD=1/2 and, on another machine, SHARD=2/2: half of the tests)"
	@echo "make lint sanity docs unit integration    one part; the documentation is build/docs/html/index.html"
	@echo "                      (CORES='2.17 2.21': run the sanity tests with these versions of ansible-core)"
	@echo "make coverage         run the unit tests and report the branch coverage (ALL=1: with the integration tests)"
	@echo "make screenshots      take the pictures of the documentation again"
	@echo "make molecule         all scenarios of molecule, about 10 minutes (SCENARIO=…: one scenario)"
	@echo "make fuzz             send a million mutated reviews to the webhook (COUNT=…; SEED=… repeats a run)"
	@echo "make bench-modules    compare the modules with amazon.aws, kubernetes.core and the command lines"
	@echo "                      (CLOUD=azure: with azure.azcollection and az)"
	@echo "make bench-webhook    measure the reviews per second of the webhook (PEER=URL: and of another webhook)"
	@echo "make bench-admission  measure pod creations per second without a mutation, with the admission policy and with the"
	@echo "                      webhook (PEER=URL PEER_CA=FILE: and with another webhook)"
	@echo "make bench-agent      advertise the slots of 5,000 nodes with the agent, a client-go controller, curl and client"
	@echo "                      libraries (NODES=…; AGENT=DIR: the agent of another checkout)"
	@echo "make bench-limit      change the limit of 500 nodes with 1,000 peer pods, with the collection and as documented"
	@echo "                      (NODES=…; OPERATOR=1.12: with an older operator)"
	@echo "make bench-site       run the whole site on 3 and on 500 workers: time and calls, by role (WORKERS=…)"
	@echo "make collection       build the tarball of the collection in build/"
	@echo "make images           build the images of the webhook and of the agent for the test cluster"
	@echo "make release          build what a release publishes in build/release/ (TAG=v…: check that the tag fits)"
	@echo "make publish          push the images of the release to REGISTRY, and create the release on GitHub"
	@echo "make requirements     pin all Python requirements, those of the containers by hash"
	@echo "make clean            remove .venv and build/ (the cache in ~/.cache/osc.peerpods stays)"

demo: .venv/installed packages
	CLOUD=$(CLOUD) OPERATOR=$(OPERATOR) CREDENTIALS=$(CREDENTIALS) .venv/bin/python -m tests.demo

# The fastest stages come first; the first stage that fails ends the run.
STAGES ?= $(if $(filter 1/%,$(SHARD)),checks) unit integration

test:
	@[[ "$(SHARD)" =~ ^([0-9]+)/([0-9]+)$$ ]] && ((1 <= BASH_REMATCH[1] && BASH_REMATCH[1] <= BASH_REMATCH[2])) \
	  || { echo "SHARD must be a number and a count, such as 1/2 or 2/2; got '$(SHARD)'."; exit 1; }
	@trap 'printf "%s%6d s  all\n" "$$took" $$SECONDS' EXIT; \
	for stage in $(STAGES); do \
	  echo "== $$stage"; \
	  began=$$SECONDS; result=""; \
	  $(MAKE) --no-print-directory $$stage || result=" failed"; \
	  took+="$$(printf '%6d s  %s' $$((SECONDS - began)) "$$stage$$result")"$$'\n'; \
	  [ -z "$$result" ] || exit 1; \
	done

# What takes seconds first; then the others in parallel, since each uses one core for most of its time.
checks: .venv/installed
	$(MAKE) --no-print-directory style
	$(MAKE) --no-print-directory --jobs=3 --output-sync=recurse timed-lint timed-sanity timed-docs

timed-%:
	@$(MAKE) --no-print-directory $* && echo "== $*: $$SECONDS s" || { echo "== $* failed after $$SECONDS s"; exit 1; }

style: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python -m tests.style

lint: style
	.venv/bin/mypy
	PYTHONPATH=collections:containers/webhook:containers/node_capacity .venv/bin/lint-imports --no-cache --no-logo
	ANSIBLE_COLLECTIONS_PATH=collections .venv/bin/ansible-lint --offline -q
	.venv/bin/antsibull-changelog lint
	.venv/bin/reuse lint --quiet || .venv/bin/reuse lint

sanity: .venv/installed
	.venv/bin/python -m tests.sanity $(CORES)

# The documentation is checked against that of the collections it refers to. PyPI's `ansible` has many more, and each
# of them would take its time.
docs: export ANSIBLE_COLLECTIONS_SCAN_SYS_PATH := false
docs: export PATH := $(CURDIR)/.venv/bin:$(PATH)
docs: .venv/installed browser
	rm -rf build/docs
	mkdir -p build/docs/rst
	python -m tests.docs_references build/docs/collections
	ANSIBLE_COLLECTIONS_PATH=build/docs/collections antsibull-docs lint-collection-docs \
	  --plugin-docs --validate-collection-refs all .
	ANSIBLE_COLLECTIONS_PATH=collections:build/docs/collections antsibull-docs collection \
	  --use-current --squash-hierarchy --fail-on-error --dest-dir build/docs/rst osc.peerpods
	@# antsibull-docs copies the guides without their images.
	cp -r docs/docsite/rst/images build/docs/rst/docsite/
	sphinx-build --quiet --fail-on-warning --keep-going -c docs/docsite build/docs/rst build/docs/html
	python -m tests.docs_site build/docs/html

unit: .venv/installed browser
	$(PYTEST) -m "not integration" tests/unit containers

# Not a threshold: a number to look at. ALL=1 adds the integration tests.
coverage: .venv/installed $(if $(ALL),programs packages browser)
	mkdir -p build/coverage
	$(PYTEST) $(if $(ALL),,-m "not integration") --cov --cov-report term --cov-report html:build/coverage/html

# Before the tests, not in parallel with them: the compiler uses all cores.
programs: .venv/installed
	.venv/bin/python -c 'from tests.cluster import binaries, cert_manager, promtool; \
	  binaries.binaries(), cert_manager.cert_manager(), promtool.promtool()'

integration: .venv/installed programs packages browser
	$(PYTEST) --durations=25 -m integration tests/integration containers

screenshots: .venv/installed programs packages browser
	.venv/bin/python -m tests.screenshots

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

VERSION = $(shell sed -n 's/^version: //p' galaxy.yml)
REGISTRY ?= ghcr.io/osc-peerpods
TAG ?= v$(VERSION)

release: .venv/installed packages
	test $(TAG) = v$(VERSION) || { echo "The tag $(TAG) does not fit the version $(VERSION) in galaxy.yml."; exit 1; }
	rm -rf build/release
	mkdir -p build/release
	.venv/bin/ansible-galaxy collection build --output-path build/release
	.venv/bin/antsibull-changelog generate --only-latest --output-format md --output build/release/notes.md $(VERSION)
	for image in webhook node_capacity; do \
	  podman build --tag $(REGISTRY)/$$image:$(VERSION) containers/$$image && \
	  podman run --rm --entrypoint cat $(REGISTRY)/$$image:$(VERSION) /opt/app/sbom.cdx.json \
	    > build/release/$$image.cdx.json || exit 1; \
	done

publish:
	podman login --username "$$GITHUB_ACTOR" --password-stdin $(firstword $(subst /, ,$(REGISTRY))) <<< "$$GH_TOKEN"
	for image in webhook node_capacity; do podman push $(REGISTRY)/$$image:$(VERSION) || exit 1; done
	gh release create $(TAG) --verify-tag --title $(VERSION) --notes-file build/release/notes.md \
	  build/release/*.tar.gz build/release/*.cdx.json

packages:
	$(call install,podman buildah runc iptables catatonit mmdebstrap,$(CONTAINER_PACKAGES),\
	  To run the webhook and the agent as containers,true)

# Without a browser, the tests of the report page are skipped, and the docs site is checked by its files only.
browser:
	-$(call install,chromium,chromium fonts-liberation,To test the report page and the docs site in a browser,true)

h2load:
	$(call install,h2load,nghttp2-client,h2load is missing,false)

# $(call install,COMMANDS,PACKAGES,REASON,STATUS): install Debian's PACKAGES if one of COMMANDS is missing. Without
# root, print REASON and the command to run, and exit with STATUS.
define install
	@if ! (for command in $(1); do command -v $$command >/dev/null || exit 1; done); then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Debian packages: $(2)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -qq --no-install-recommends $(2) >/dev/null; \
	  else \
	    echo "$(strip $(3)): sudo apt-get install $(2)"; $(4); \
	  fi; \
	fi
endef

.venv/installed: tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is required ($(PYTHON) is older or missing): make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
	  || { echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check uv
	@# Compiled now: if Python may not write bytecode, every module of a run would compile its imports again.
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
