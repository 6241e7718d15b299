# Run `make` for the list of targets. All tools run in a virtual environment of the project, made on first use.

PYTHON ?=
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
STUDIES ?= sign_alignment scale_circle

# Tests that reach every room and take a minute together.
SHAPES := $(addprefix tests/test_,validate.py models.py exact.py exponential_symmetry.py symmetry.py noise_trace.py \
	population.py noise_redrawn.py)

RUN := "$(VENV)/bin/python" -m

# The environment, with the optional dependencies that a target needs.
install = @PYTHON='$(PYTHON)' VENV='$(VENV)' CONSTRAINTS='$(CONSTRAINTS)' EXTRAS='$(1)' sh tools/make_venv.sh
DEVELOPING := test,experiments,libraries,dev
DOCUMENTING := docs,experiments,libraries,cluster,notebook

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all shapes doctest docs browse report seeds wheel lint format types clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)$$/  make \1	\2/p' Makefile | expand -t 18
	@echo
	@echo 'Variables:'
	@echo '  PYTHON       interpreter, 3.11 or newer (if empty: the first one found)'
	@echo '  VENV         folder of the virtual environment (now: $(VENV))'
	@echo '  CONSTRAINTS  pinned versions, used on Python 3.11 only; empty: none (now: $(CONSTRAINTS))'
	@echo '  WORKERS      processes that run tests (now: $(WORKERS))'
	@echo '  STUDIES      what `make seeds` runs (now: $(STUDIES))'

venv: ## make the virtual environment, or renew it if pyproject.toml or the pinned versions changed
	$(call install,$(DEVELOPING))

demo: ## a small version of Figure 2, and a page on a small network and real data that opens in a browser
	$(call install,experiments)
	$(RUN) experiments alignment --quick
	$(RUN) experiments demo

# Most of the time of these tests is compilation, so LLVM optimises nothing. What single precision does, and the last bit,
# depend on how programs are optimised: those tests have programs as users get them, and so has `make test-all`.
UNOPTIMISED := XLA_FLAGS="--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0"
FAST := not (slow or float32 or optimised)

test: venv ## run the tests, without the slow ones
	$(UNOPTIMISED) $(RUN) pytest -n $(WORKERS) -m "$(FAST)"
	$(RUN) pytest -n $(WORKERS) -m "(float32 or optimised) and not slow"

test-all: venv ## run all tests, slow ones included
	$(RUN) pytest -n $(WORKERS)

shapes: venv ## run some tests again with every shape in the annotations checked
	$(UNOPTIMISED) $(RUN) pytest -n $(WORKERS) -m "$(FAST)" --jaxtyping-packages=noise_equilibrium,shapes.checked $(SHAPES)

doctest: venv ## run the examples in the docstrings
	$(UNOPTIMISED) JAX_ENABLE_X64=1 JAX_PLATFORMS="$${JAX_PLATFORMS:-cpu}" $(RUN) pytest -n $(WORKERS) --doctest-modules noise_equilibrium

docs: ## build the documentation into build/site; a broken link or reference is an error
	$(call install,$(DOCUMENTING))
	"$(VENV)/bin/python" tools/build_site.py

browse: docs ## open every page of the documentation in a browser without a window, wide and narrow (needs Chromium)
	"$(VENV)/bin/python" tools/browse.py build/site

report: ## the whole paper on one page: runs what is missing of the full presets
	$(call install,experiments)
	$(RUN) experiments report

seeds: venv ## quick studies at two seeds that follow from the date of the last commit
	"$(VENV)/bin/python" tools/fresh_seeds.py $(STUDIES)

wheel: venv ## build the wheel, and run the README's example with it in an environment without this folder
	PYTHON='$(VENV)/bin/python' CONSTRAINTS='$(CONSTRAINTS)' sh tools/check_wheel.sh

lint: venv ## check style and formatting
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: venv ## format the code and fix what can be fixed safely
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

types: venv ## check types
	$(RUN) basedpyright --pythonpath "$(VENV)/bin/python"

clean: ## remove the virtual environment, caches and build results
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find noise_equilibrium experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
