# Python 3.11 or newer, make and git are enough to start; everything else goes into .venv.

VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= python3
# Python compiles what it imports; pip would compile everything.
PIP = $(PY) -m pip install -q --no-compile

# "-gpu" where an NVIDIA GPU answers.
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo -gpu)
REQUIREMENTS ?= requirements$(GPU).txt
# Where no GPU answers, PyTorch's own build for a CPU, if its index does; PyPI's brings gigabytes of CUDA on Linux.
CPU_INDEX ?= $(if $(GPU),,https://download.pytorch.org/whl/cpu)
ANSWERS = import sys, urllib.request as web; web.urlopen(sys.argv[1], timeout=10); print("--extra-index-url", sys.argv[1])
ARGS ?=

# Threads that wait by spinning lose a hundredfold as soon as anything else wants a core.
export OMP_WAIT_POLICY ?= PASSIVE
# Without its cache of compiled files each process takes half a minute to import what it needs.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help studio demo test test-all coverage lint lock notice refresh browser clean

help: ## Say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

studio: $(VENV)/.installed ## Open the studio in the browser (options: ARGS="--port 7861")
	$(PY) -m app --open $(ARGS)

demo: $(VENV)/.installed ## Learn the sample content and style, join them, and draw what comes of it
	$(PY) -m training customize samples/project.toml $(ARGS)

test: $(VENV)/.installed-dev browser ## Run the tests (a selection: ARGS="-k apg")
	$(PY) -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-dev browser ## Run every test, the slow ones too
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

coverage: $(VENV)/.installed-dev browser ## Run the tests, and say which lines none of them runs
	$(PY) -m pytest -n 2 --dist loadfile -m "not slow" --cov $(ARGS)

lint: $(VENV)/.installed-dev ## Check the code's form and its types
	$(PY) -m ruff check --no-cache .
	$(PY) -m ruff format --check --exclude '*.md' .
	$(PY) -m mypy

lock: ## Bring the locked versions and hashes up to the requirements (newest: ARGS="--upgrade")
	test -x $(PY) || "$(PYTHON)" -m venv $(VENV)
	$(PIP) uv==0.13.9
	$(PY) locks/renew.py $(ARGS)

notice: $(VENV)/.installed ## List the packages of the container image in NOTICE, after a change of the locks
	$(PY) -m benchmarks.container.notice

refresh: $(VENV)/.installed-dev ## Make anew what follows from the base's weights: pictures, figures, tables (hours)
	$(PIP) --no-deps --require-hashes -r locks/optimizers.txt
	$(PY) -m benchmarks.refresh $(ARGS)

clean: ## Remove .venv and caches; data/ and models/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written last, so that an installation that was interrupted is taken up again.
# All but PyTorch comes from the lock, with hashes; locks/renew.py says why PyTorch does not.
$(VENV)/.installed: $(REQUIREMENTS) locks/$(REQUIREMENTS) locks/cuda-$(REQUIREMENTS)
	@"$(PYTHON)" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Joinery needs Python 3.11 or newer with its venv module; \"$(PYTHON)\" is not. Install it" \
			"(Debian and Ubuntu: sudo apt-get install python3-venv), or name one: make PYTHON=/path/to/python3.11"; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) --no-deps --require-hashes -r locks/$(REQUIREMENTS)
	$(PIP) $$("$(PYTHON)" -c '$(ANSWERS)' $(CPU_INDEX) 2>/dev/null) -r $(REQUIREMENTS) -c locks/cuda-$(REQUIREMENTS)
	@touch $@

$(VENV)/.installed-dev: locks/requirements-dev.txt $(VENV)/.installed
	$(PIP) --no-deps --require-hashes -r locks/requirements-dev.txt
	@touch $@

# Chromium for the browser tests, from the system's packages where that needs no password.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ]; then root=; else root="sudo -n"; fi; \
	if command -v apt-get >/dev/null && $$root true 2>/dev/null; then \
		echo "Installing Chromium for the browser tests"; \
		{ $$root apt-get update -q && $$root env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core; } >/dev/null; \
	fi; \
	command -v chromium >/dev/null || echo "No Chromium was found, so the browser tests are skipped." \
		"To run them, install Chromium or Chrome."
