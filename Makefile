# Every target first makes or updates its own environment in .venv. `make help` lists them.
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
PIP_FLAGS ?=#    for every pip call
TORCH_FLAGS ?=#  for the call that installs torch: an index with the build that fits your hardware
PYTEST_FLAGS ?=# for example -n 4, -k graph or --cov

# For `make test-newest`. Each candidate is run: a shim of pyenv exists for versions that it refuses to start.
NEWEST_VENV ?= .venv-newest
NEWEST_PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3 $(foreach v,14 13 12,$(HOME)/.pyenv/versions/3.$v.*/bin/python); \
	do $$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$p && break; done)
# Few of the slow tests, but every room that meets scvi-tools, AnnData or pandas.
NEWEST_TESTS ?= tests/data tests/module tests/weights/test_folder.py tests/model/test_sagefm.py \
	tests/model/test_imputation.py tests/model/test_count_types.py tests/test_devices.py tests/test_private_names.py \
	-k "not new_process"

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: bench clean coverage demo docs help lint linkcheck test test-newest tutorials

demo: $(VENV)/.installed ## train on a small simulated tissue and show what comes out
	@echo "==> sagefm demo"
	@$(BIN)/sagefm demo

test: $(VENV)/.installed-test ## run the tests
	@echo "==> pytest"
	@$(BIN)/pytest $(PYTEST_FLAGS)

test-newest: ## run the fast tests on Python 3.12 or newer with the newest releases of all dependencies
	@if [ -z "$(NEWEST_PYTHON)" ]; then \
		echo "==> pytest, newest releases: NOT RUN, because no Python 3.12 or newer starts here"; \
	else \
		$(MAKE) --no-print-directory $(NEWEST_VENV)/.installed && \
		echo "==> pytest, newest releases, $$($(NEWEST_VENV)/bin/python --version)" && \
		$(NEWEST_VENV)/bin/pytest -q -p no:cacheprovider $(NEWEST_TESTS); \
	fi

coverage: $(VENV)/.installed-test ## run the tests; fail where they reach less than 95 % of the lines and branches
	@echo "==> pytest --cov"
	@$(BIN)/pytest --cov $(PYTEST_FLAGS)

lint: $(VENV)/.installed-dev ## check style, types and the direction of imports
	@echo "==> ruff, mypy and import-linter"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(VENV)/.installed-docs ## build the documentation, tutorials included, in docs/_build/html
	@echo "==> sphinx-build"
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

tutorials: $(VENV)/.installed-docs ## execute the tutorials on real sections (SAGEFM_DATA) and store their outputs
	@echo "==> docs/execute_tutorials.py"
	@OMP_NUM_THREADS=1 $(BIN)/python docs/execute_tutorials.py

linkcheck: $(VENV)/.installed-docs ## ask for every link of the documentation; this needs the network
	@echo "==> sphinx-build -b linkcheck"
	@$(BIN)/sphinx-build -q -D nb_execution_mode=off -D suppress_warnings=myst-nb.lexer -b linkcheck docs docs/_build/linkcheck

bench: $(VENV)/.installed-dev ## time every stage against bare matrix products, and say what moved
	@echo "==> benchmarks/speed"
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/speed/run.py

clean: ## remove what the targets made, but for .venv
	@echo "==> removing build products and caches"
	@rm -rf build dist docs/_build docs/generated .coverage htmlcov mutants .mypy_cache .pytest_cache .ruff_cache

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST)

$(BIN)/python:
	@echo "==> $(PYTHON) -m venv $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# One stamp for the package itself and one for each extra. torch goes first, so that its flags reach it alone.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "==> installing $(TORCH)"
	@$(PIP) $(TORCH_FLAGS) $(TORCH)
	@echo "==> installing sagefm"
	@$(PIP) -e .
	@touch $@

# uv finds and downloads the newest releases several times faster than pip. torch is the one build that fits here.
$(NEWEST_VENV)/.installed: pyproject.toml
	@echo "==> installing the newest releases in $(NEWEST_VENV)"
	@$(NEWEST_PYTHON) -m venv --clear $(NEWEST_VENV)
	@$(NEWEST_VENV)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) uv
	@$(NEWEST_VENV)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) $(TORCH_FLAGS) $(TORCH)
	@$(NEWEST_VENV)/bin/uv pip install -q -p $(NEWEST_VENV)/bin/python -e ".[test]"
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "==> installing sagefm[$*]"
	@$(PIP) -e ".[$*]"
	@touch $@
