# make run    install what is missing, then open the terminal program on the built-in model
# make setup  the installing alone
# make test   the test suite
# make lint   everything else that CI checks
# make gpu    build llama.cpp again for this machine's GPU
# make docs   write the generated pages
# make clean  remove .venv and what was built
# Each does nothing when it is already done.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ENGINE := llama-cpp-python

.PHONY: help run setup cuda-appeared test lint gpu docs screenshots clean

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

run: setup
	@$(BIN)/localknobs $(ARGS)

setup: cuda-appeared $(VENV)/.base-done

# A CPU build is made again for the GPU once the CUDA toolkit is there.
cuda-appeared:
	@PATH="$$PATH:/usr/local/cuda/bin"; \
	if [ -f $(VENV)/.engine-done ] && ! grep -qs CUDA $(VENV)/.engine-flags \
	  && command -v nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1; then \
	  echo "The CUDA toolkit is here now: llama.cpp is built again for the GPU."; \
	  touch $(VENV)/.engine-stale; rm -f $(VENV)/.engine-done; fi

# ---- the environment -------------------------------------------------------------------------

define CHECK_TOOLS
missing=; \
command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null \
  || missing="$$missing\n  a C++ compiler   Debian/Ubuntu: sudo apt install build-essential   Fedora: sudo dnf install gcc-c++   macOS: xcode-select --install"; \
command -v cmake >/dev/null \
  || missing="$$missing\n  cmake            Debian/Ubuntu: sudo apt install cmake   Fedora: sudo dnf install cmake   macOS: brew install cmake"; \
if [ -n "$$missing" ]; then printf "localknobs compiles llama.cpp, and this machine lacks:$$missing\nInstall what is named, then run make again.\n" >&2; exit 3; fi
endef

$(VENV)/.venv-done:
	@python=; for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if command -v $$name >/dev/null && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then echo "localknobs needs Python 3.11 or newer; found $$(python3 --version 2>&1 || echo none). Install python3.11 or newer, then run make again." >&2; exit 3; fi; \
	$$python -c 'import venv, ensurepip' 2>/dev/null || { echo "$$python cannot make virtual environments. Debian/Ubuntu: sudo apt install python3-venv" >&2; exit 3; }; \
	echo "Making $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV)
	@# Older pips compile llama.cpp again for every clone: they do not look into their own cache with --no-binary.
	@$(PIP) install --quiet --progress-bar off 'pip>=23.1'
	@touch $@

# Compiled from source on purpose: a wheel that somebody else built may lack this processor's instructions
# or RPC. pip caches the wheel it builds without regard to CMAKE_ARGS. Only the plain CPU build may come
# from that cache, and only if it turns out to have what we ask for; every other build is made afresh.
# A constraints.txt that changed elsewhere leaves the engine as it is; FRESH=1 (make gpu) builds it anyway.
$(VENV)/.engine-done: $(VENV)/.venv-done constraints.txt
	@set -eu; version=$$(sed -n 's/^$(ENGINE)==//p' constraints.txt); \
	here=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("$(ENGINE)"))' 2>/dev/null || true); \
	if [ "$$here" = "$$version" ] && [ -z "$(FRESH)" ] && [ ! -e $(VENV)/.engine-stale ]; then touch $@; exit 0; fi; \
	$(CHECK_TOOLS); \
	flags="-DGGML_RPC=on $${CMAKE_ARGS:-}"; options=; \
	if [ -n "$$here" ]; then options="--force-reinstall --no-deps"; fi; \
	[ -x /usr/local/cuda/bin/nvcc ] && PATH="$$PATH:/usr/local/cuda/bin"; \
	if nvidia-smi -L >/dev/null 2>&1; then \
	  if command -v nvcc >/dev/null; then flags="-DGGML_CUDA=on $$flags"; \
	  else echo "There is an NVIDIA GPU but no CUDA compiler (nvcc), so this build uses the CPU alone. Install the CUDA toolkit, then: make gpu"; fi; fi; \
	if [ "$$flags" != "-DGGML_RPC=on " ]; then options="$$options --no-cache-dir"; fi; \
	echo "Installing llama.cpp ($(ENGINE) $$version, $$flags)"; \
	echo "It is compiled once: about 4 minutes on 2 cores, longer with CUDA."; \
	install() { CMAKE_ARGS="$$flags" CMAKE_BUILD_PARALLEL_LEVEL=$${CMAKE_BUILD_PARALLEL_LEVEL:-$$(getconf _NPROCESSORS_ONLN)} \
	  $(PIP) install --progress-bar off --no-binary $(ENGINE) -c constraints.txt "$$@" "$(ENGINE)==$$version"; }; \
	works() { $(BIN)/python -c 'import llama_cpp, sys; sys.exit(not llama_cpp.llama_supports_rpc())' 2>/dev/null; }; \
	install $$options; \
	if ! works; then echo "The cached build lacks RPC; compiling afresh."; install --no-cache-dir --force-reinstall --no-deps; fi; \
	if ! works; then echo "llama.cpp was installed but does not load: $$($(BIN)/python -c 'import llama_cpp' 2>&1 | tail -1)" >&2; exit 1; fi; \
	echo "$$flags" > $(VENV)/.engine-flags; rm -f $(VENV)/.engine-stale
	@touch $@

$(VENV)/.base-done: $(VENV)/.engine-done pyproject.toml constraints.txt
	@echo "Installing localknobs"
	@$(PIP) install --quiet --progress-bar off -c constraints.txt -e .
	@touch $@

$(VENV)/.dev-done: $(VENV)/.base-done
	@echo "Installing what the tests need"
	@$(PIP) install --quiet --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

# The build in use stays until the new one is made. Without a GPU compiler this makes the CPU build again.
gpu: $(VENV)/.venv-done
	@rm -f $(VENV)/.engine-done
	@$(MAKE) --no-print-directory setup FRESH=1
	@$(BIN)/localknobs doctor

# ---- checks ----------------------------------------------------------------------------------

# Two processes, each with whole files: the tests of a file share a loaded model. ARGS replaces that.
test: $(VENV)/.dev-done
	@$(BIN)/pytest $(or $(ARGS),-n 2 --dist loadfile)

lint: $(VENV)/.dev-done
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@# tui/ and convert/ lie at the top but install as localknobs.tui and localknobs.convert: .lint shows
	@# them to the type checker and to the import contracts as they install. Links, so nothing is copied.
	@rm -rf .lint/localknobs && mkdir -p .lint/localknobs
	@ln -s "$(CURDIR)"/localknobs/[!_]* "$(CURDIR)"/localknobs/__*.py "$(CURDIR)"/tui "$(CURDIR)"/convert .lint/localknobs/
	@set -o pipefail; cd .lint; ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p localknobs \
	  | sed -E 's,^localknobs/(tui|convert)/,\1/,'
	@cd .lint; PYTHONPATH=. ../$(BIN)/lint-imports --no-logo --config ../pyproject.toml --cache-dir ../.import_linter_cache

docs: $(VENV)/.dev-done
	@$(BIN)/python tests/guards/generated_docs.py --write

screenshots: $(VENV)/.dev-done
	@$(BIN)/python tests/tui/make_screenshots.py

clean:
	@rm -rf $(VENV) .lint build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
