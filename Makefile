# orchd: `make` lists what there is. Every target sets up what it needs by itself.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.PHONY: help demo check test test-vllm test-cuda setup specs clean bench

PY := .venv/bin/python
# An order that fails early: types take longest, so their worker starts first.
PYTEST := $(PY) -m pytest -q -n 2 --dist worksteal

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: setup ## three agents share two simulated GPUs, through the public API (under 10 s)
	@$(PY) -m tools.demo

check: setup ## the quick tier: style, types, layers and all fast tests (under a minute)
	@$(PYTEST) -m "not system and not engine and not slow"

test: setup ## everything: also real engines, and a booted systemd where this runs as root
	@$(PY) -m tests.lab.setup || true # what is missing is skipped, and told at the end
	@$(PYTEST)

test-vllm: setup ## the cases of every engine against the real vLLM and transformers too (installs 3.5 GB once; ten minutes)
	@ORCHD_TEST_VLLM=1 $(PY) -m pytest -q tests/engines/test_every_engine.py \
		tests/engines/test_vectors.py tests/sockets/test_engines.py tests/system/test_engines.py \
		tests/sockets/test_transformers.py -k "vllm or transformers"

test-cuda: setup ## the whole of llama.cpp by the real nvcc, up to the look for a device (an hour or two once)
	@ORCHD_TEST_CUDA_BUILD=1 $(PY) -m pytest -q tests/poolmgr/provision/test_llama_source.py

setup: ## make .venv, when it is missing or pyproject.toml has changed
	@tools/bootstrap.sh

specs: setup ## write again what is generated: requirements/, COMPLIANCE.md, contracts/, man pages
	@$(PY) -m tools.specs
	@$(PY) -m tools.contracts

clean: ## remove .venv and every cache of this folder
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

bench: setup ## measure, and write the tables of specs/benchmarks.md (ten minutes, on a quiet machine)
	@$(PY) -m tools.bench --write specs/benchmarks.md
