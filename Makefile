# Everything that this project's people do often, each with all its set-up. "make" alone lists it.
#
#   PYTHON=/path/to/python3.12   the interpreter (default: the first of 3.11 or later that is found)
#   VENV=folder                  the virtual environment (default: .venv; .venv-3.12 when PYTHON is given)
#   T=tests/unit/test_x.py       for "make test-fast": only these tests
#   WORKERS=8                    how many tests run at the same time (default: two for each core; 0: one after the other)
#   ARGS="--quick --only start"  for "make bench"; --help lists them

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PATH := $(PATH):/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

AT_LEAST_3_11 := import sys; sys.exit(sys.version_info < (3, 11))
INTERPRETERS := python3 python3.11 python3.12 python3.13 python3.14 $(wildcard $(HOME)/.pyenv/versions/3.*/bin/python3)
ifndef PYTHON
PYTHON := $(shell for p in $(INTERPRETERS); do $$p -c '$(AT_LEAST_3_11)' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
else
VENV ?= .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
BIN := $(VENV)/bin

# Most tests wait rather than work. A file is run as a whole: its tests may share an etcd.
WORKERS ?= $(shell echo $$((2 * $$(nproc))))
PARALLEL := $(if $(filter-out 0,$(WORKERS)),--numprocesses=$(WORKERS) --dist=loadfile)

# program:Debian's package that brings it
DEMO_PROGRAMS := ip:iproute2 etcd:etcd-server etcdctl:etcd-client ping:iputils-ping
BENCH_PROGRAMS := $(DEMO_PROGRAMS) iptables:iptables
TEST_PROGRAMS := $(DEMO_PROGRAMS) nft:nftables iptables:iptables supervisord:supervisor systemd-analyze:systemd \
    zsh:zsh fish:fish mandoc:mandoc faketime:faketime tc:iproute2 strace:strace
# A browser and Prometheus' own checks for the page and the metrics: some 160 MB to fetch, once.
TEST_PROGRAMS += chromium:chromium chromedriver:chromium-driver promtool:prometheus
# package:service that it would start now and at every boot
SERVICES := etcd-server:etcd supervisor:supervisor prometheus:prometheus

.PHONY: help demo test test-fast test-all faults bite fuzz sim soak bench bench-scaling docs proto screenshots lock dist clean venv need-root
.PHONY: demo-programs bench-programs test-programs lint

help: ## list the targets
	@echo "pyflanneld: make TARGET"
	sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 14

demo: need-root demo-programs venv ## put up a cluster of 3 hosts on this machine and show what the daemon does (root)
	@$(BIN)/python -m pyflanneld lab demo

test: need-root test-programs lint ## lint, types, then all tests: unit, contract, integration, faults (root)
	@$(BIN)/python -m pytest $(PARALLEL) -m "not thorough" $(wildcard tests/unit tests/contract tests/integration tests/faults)

test-fast: lint ## lint, types, and the tests that need neither root nor etcd
	@$(BIN)/python -m pytest $(PARALLEL) -m "not etcd and not netns and not thorough" $(or $(T),$(wildcard tests/unit tests/contract))

test-all: need-root ## "make test" on every Python from 3.11 up that this machine has (root)
	@done=" "
	for python in $(INTERPRETERS); do
	    $$python -c '$(AT_LEAST_3_11)' 2>/dev/null || continue
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	    [[ $$done == *" $$version "* ]] && continue
	    echo "== Python $$version ($$python)"
	    $(MAKE) test PYTHON="$$python" VENV=".venv-$$version"
	    done+="$$version "
	done
	echo "== all tests passed on Python$$done"

faults: need-root test-programs venv ## run the fault matrix, a line per row, and write its table: ROWS="F20 F21" for some, AMEND=1: and put these into it (root)
	@$(BIN)/python -m tests.faults $(if $(AMEND),--amend) $(ROWS)

bite: need-root test-programs venv ## plant one fault after another and see which check notices (ARGS="B08 guard": these; ARGS="--amend B08": into the page)
	@$(BIN)/python -m tests.bite $(ARGS)

fuzz: venv ## search the parsers for inputs that break them (SECONDS=60 for each, TARGET=value: one)
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(if $(TARGET),--target $(TARGET))

sim: venv ## run the simulated world: SEEDS=200 FIRST=0 JOBS=2, or SEED=17 for the story of one
	@$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED) --timeline,--seeds $(or $(SEEDS),200) --first $(or $(FIRST),0) \
	    --jobs $(or $(JOBS),2))

soak: need-root test-programs venv ## one fault after the other for MINUTES=20, SEED=17: is all right after each, and does nothing grow? (root)
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: need-root bench-programs venv ## measure speed and cost, beside ip -batch and other flanneld programs (root)
	@$(BIN)/python -m tests.bench $(ARGS)

docs: venv ## write what is made from the code: man page, completion scripts, flag table of docs/configuration.md
	@$(BIN)/python .ci/docs.py

proto: venv ## compile pyflanneld/etcd/v3/rpc.proto, the part of etcd's API that is used, into rpc_pb2.py and its types
	@$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. pyflanneld/etcd/v3/rpc.proto

bench-scaling: demo-programs venv ## a large cluster: model, simulation, and 200 nodes on a real etcd (4 min)
	@$(BIN)/python -m tests.bench.scaling

screenshots: need-root demo-programs venv ## make the pictures of the page in docs/images anew (root)
	@$(call require,chromium:chromium chromedriver:chromium-driver pngquant:pngquant)
	$(BIN)/python -m tests.support.lab.screenshots

lock: venv ## resolve requirements*.txt anew, with hashes (UPGRADE=1: to the newest versions)
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install -qq uv
	compile() {
	    out=$$1; shift
	    $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	        --no-emit-index-url --no-emit-find-links --annotation-style line $(if $(UPGRADE),--upgrade) \
	        pyproject.toml "$$@" --output-file "$$out" >/dev/null
	    sed -i '1i # Made by "make lock" for Python 3.11 and later; do not edit.' "$$out"
	}
	compile requirements.txt
	compile requirements-dev.txt --extra dev --constraint requirements.txt
	wc -l requirements.txt requirements-dev.txt

dist: venv ## build the wheel, the source archive and the archive for /opt into dist/, with their sums
	@rm -rf dist
	export SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 1577836800)}
	$(BIN)/python -m build --no-isolation
	$(BIN)/python .ci/bundle.py dist/*.whl --out dist
	cd dist
	sha256sum *.whl *.tar.gz >SHA256SUMS
	ls -l

clean: ## remove virtual environments, caches and dist/
	@rm -rf .venv .venv-* dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find pyflanneld tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Steps of the above

lint: venv
	@$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy .ci
	$(BIN)/lint-imports

need-root:
	@[[ $$(id -u) == 0 ]] || { echo "make $(MAKECMDGOALS): network namespaces need root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

venv: $(VENV)/.locked

$(VENV)/.locked: requirements-dev.txt pyproject.toml
	@if [[ -z "$(PYTHON)" ]]; then
	    echo "Python 3.11 or later is needed: apt-get install python3, or make PYTHON=/path/to/python3.11" >&2
	    exit 1
	fi
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then
	    $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call install,python3-venv); }
	    $(PYTHON) -m venv --clear $(VENV)
	fi
	echo "$(VENV): installing the locked requirements ($$($(BIN)/python -V))"
	$(BIN)/python -m pip install -qq --require-hashes --requirement requirements-dev.txt
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	touch $@

demo-programs:
	@$(call require,$(DEMO_PROGRAMS))

bench-programs:
	@$(call require,$(BENCH_PROGRAMS))

test-programs:
	@$(call require,$(TEST_PROGRAMS))

# $(call require,program:package …): install the packages of the programs that are missing.
define require
missing=""
for pair in $(1); do
    command -v "$${pair%%:*}" >/dev/null || missing+=" $${pair##*:}"
done
if [[ -n $$missing ]]; then $(call install,$$missing); fi
endef

# $(call install,package …): with apt, and without any service being started now or at the next boot.
define install
if ! command -v apt-get >/dev/null || [[ $$(id -u) != 0 ]]; then
    echo "missing; install these (Debian's names), or be root on Debian for make to do it: $(strip $(1))" >&2
    exit 1
fi
echo "installing $(strip $(1))"
barred=/usr/sbin/policy-rc.d
if [[ ! -e $$barred ]]; then
    trap "rm -f $$barred" EXIT
    printf '#!/bin/sh\nexit 101\n' >$$barred
    chmod +x $$barred
fi
export DEBIAN_FRONTEND=noninteractive
log=$$(mktemp)
apt-get update >$$log 2>&1 || true
apt-get install --yes --no-install-recommends $(1) >>$$log 2>&1 || { cat $$log >&2; exit 1; }
rm $$log
for pair in $(SERVICES); do
    [[ " $(1) " == *" $${pair%%:*} "* ]] || continue
    systemctl disable $${pair##*:} >/dev/null 2>&1 || update-rc.d $${pair##*:} disable || true
done
endef
