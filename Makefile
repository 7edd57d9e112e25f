# make demo   install everything, train a small network, forget from it, audit it, and write runs/<id>/report.html
# make test   install everything and run the suite (about 12 minutes on two cores; needs no network)
PYTHON ?= python3
# folder of the real data sets; without it, the tests and benchmarks that need it are skipped
DATA_ROOT ?= ../shared/data
WORKERS ?= 2
GPU_WORKERS ?= 8
# cases of each kind of make fuzz
COUNT ?= 10000

VENV := .venv/bin
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
# bytecode is kept, whatever the environment says: tests start many processes, and each would compile every file again
export PYTHONDONTWRITEBYTECODE :=
export LETHE_DATA ?= $(if $(wildcard $(DATA_ROOT)),$(abspath $(DATA_ROOT)),)

.PHONY: setup demo test test-slow fuzz gpu newest evidence mutations lint bench clean

setup:
	@$(PYTHON) tools/setup.py

demo: setup
	@$(VENV)/lethe compare presets/demo.yaml || [ $$? -eq 3 ]   # 3: the watchdog ended a method, which the demo is to show

test: setup lint
	$(VENV)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: setup
	$(VENV)/python -m pytest -n $(WORKERS) --dist loadfile -m slow

# damaged and odd requests, command lines, data files and ledgers, COUNT of each kind: used or refused, never a traceback or a hang
fuzz: setup
	LETHE_FUZZ=$(COUNT) $(VENV)/python -m pytest -n $(WORKERS) --dist load -m slow tests/test_fuzz.py

# every method, modifier and audit on an accelerator, compared with the CPU; prints a table, skips where there is no accelerator
gpu: setup
	$(VENV)/python -m pytest -n $(GPU_WORKERS) -m gpu -rs tests/test_gpu.py

# language models, all architectures, on the newest transformers beside the installed one: what the next version will break
newest: setup
	$(VENV)/python -m pip install -q --upgrade --no-deps --target build/newest transformers
	PYTHONPATH=build/newest $(VENV)/python -m pytest -n $(WORKERS) --dist loadgroup -m "slow or not slow" tests/models/test_lm.py \
		tests/models/test_lm_architectures.py tests/models/test_lm_folders.py tests/models/test_adapters.py tests/models/test_repeats.py

# whether the audits can be fooled: fakes are detected, retrained models pass, known answers come out; status 1 if one falls short
evidence: setup
	@$(VENV)/python tests/evidence.py

# which small changes of the code no test detects: make mutations NAMES="scrub npo"; without names everything, which takes hours
mutations: setup
	@$(VENV)/python tests/mutants.py $(NAMES)

lint: setup
	$(VENV)/ruff check lethe tests speed tools
	$(VENV)/mypy

bench: setup
	$(VENV)/python -m speed.all

clean:
	rm -rf .venv runs build dist *.egg-info
