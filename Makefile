# make help lists the targets.

VENV   ?= .venv
PYTHON ?= python3
# An index for torch alone, e.g. TORCH_INDEX="--index-url https://download.pytorch.org/whl/cu128". Empty: chosen below.
TORCH_INDEX ?=
# Processes of the default tier of tests.
JOBS ?= 2

PY      := $(VENV)/bin/python
PIP     := $(PY) -m pip --disable-pip-version-check
STAMP   := $(VENV)/.installed
TORCH   := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
CODE    := lopt sweeps analysis

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-ray test-slow test-gpu test-network test-cluster lint format clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'
	@echo "  variables: VENV=$(VENV) PYTHON=$(PYTHON) JOBS=$(JOBS) TORCH_INDEX='--index-url ...'"

venv: $(STAMP) ## make an environment (.venv) with the tested versions

# On PyPI, torch for Linux brings several gigabytes of CUDA libraries. Without an NVIDIA GPU, the CPU build is looked for
# first: in pip's find-links folders (no network), then at PyTorch's own index, which gets one try. If neither has it, the
# last line takes the torch of PyPI. --no-deps: these places may lack the dependencies of torch, which the last line adds.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + v + ": make PYTHON=python3.11")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@if [ -n "$(strip $(TORCH_INDEX))" ]; then \
		echo "torch: $(TORCH_INDEX)"; \
		$(PIP) install --no-deps $(TORCH_INDEX) "$(TORCH)"; \
	elif [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then \
		if $(PIP) install --quiet --no-index --no-deps "$(TORCH)" 2>/dev/null; then \
			echo "torch: already there, or from find-links"; \
		elif $(PIP) install --quiet --retries 0 --timeout 5 --no-deps --index-url $(CPU_INDEX) "$(TORCH)" 2>/dev/null; then \
			echo "torch: CPU build from $(CPU_INDEX)"; \
		else \
			echo "torch: $(CPU_INDEX) cannot be reached; taking the default index"; \
		fi; \
	fi
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP) ## compare low-rank prompts with the full one until it is decided (no hub, no GPU), and write a report
	$(PY) sweeps/run.py --space quickstart --profile demo --until-decided --most-seeds 6
	$(PY) analysis/report.py quickstart-demo

# Five tiers beside the default one of pyproject.toml. They do not overlap. -m replaces the -m given there.
# pytest exits with 5 if no test carries the markers of a tier. That is said, and is not a failure.
define tier
@$(PY) -m pytest -m "$(1)" || { code=$$?; [ $$code -eq 5 ] && echo "$@: no test carries these markers: $(1)"; }
endef

test: $(STAMP) ## run the default tests: CPU, offline, a few minutes, one real Ray sweep
	$(PY) -m pytest -n $(JOBS) --dist worksteal

test-ray: $(STAMP) ## run the tests that start Ray
	$(call tier,ray and not slow and not gpu and not network)

test-slow: $(STAMP) ## run the slow tests, also those that start Ray
	$(call tier,slow and not gpu and not network)

test-gpu: $(STAMP) ## run the tests that need a CUDA device
	$(call tier,gpu and not network)

test-network: $(STAMP) ## run the tests that download
	$(call tier,network)

# The machines borrow the packages of this environment. Their Ray needs the extra `cluster`.
test-cluster: $(STAMP) ## run the tests that make several machines of namespaces (root on Linux, a quarter of an hour)
	$(PIP) install --quiet -c constraints.txt -e ".[dev,cluster]"
	$(PY) -m pytest -m cluster -n 2 --dist loadfile

lint: $(STAMP) ## run ruff (check and format) and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy $(CODE)

format: $(STAMP) ## let ruff reformat and fix the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove .venv, caches and build output; results/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
