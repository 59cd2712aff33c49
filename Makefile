# make train, make test, make benchmark: each sets up .venv itself. Only Python 3.11+ and make are needed.
PYTHON ?= python3
ENVIRONMENT := .venv
RUN := $(ENVIRONMENT)/bin/python
READY := $(ENVIRONMENT)/ready
PEERS := $(ENVIRONMENT)/peers
# one thread per process is steadier than two on two cores
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest
WORKERS ?= 2

.PHONY: train test test-all benchmark check format clean

train: $(READY)  ## make a small set of videos, train on it, and say what to try next
	$(RUN) train.py

test: $(READY)  ## the fast lane: every package, at most five minutes on two cores
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not slow" --ignore tests/slurm

test-all: $(READY)  ## every test, at most twenty minutes on two cores; SLURM comes last and alone
	$(PYTEST) -n $(WORKERS) --dist worksteal --ignore tests/slurm
	$(PYTEST) tests/slurm

benchmark: $(READY) $(PEERS)/ready  ## speed, side by side with other projects; TOPICS="shards startup" measures only these
	$(RUN) -m tests.benchmarks.speed $(TOPICS)

check: $(READY)  ## format, lint, types: what needs no run
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy lit_hour

format: $(READY)  ## mend format and what lint can mend
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean:  ## take away what make train has made
	rm -rf runs shards/world

# the stamp is written last: a set-up that broke off is done again
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv $(ENVIRONMENT)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --requirement requirements.txt
	$(RUN) -m pip install --quiet --no-deps --editable .
	touch $@

# the other projects see what .venv has and come after it: they bring what else they need, and change no version of ours
$(PEERS)/ready: $(READY) tests/benchmarks/requirements.txt
	$(RUN) -m venv --clear $(PEERS)
	$(RUN) -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' > peers.pth
	mv peers.pth $$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')
	@sed -E '/^(#|$$)/d' tests/benchmarks/requirements.txt | while read -r peer; do \
		$(PEERS)/bin/python -m pip install --quiet $$peer || echo "$$peer could not be installed: it is left out"; done
	touch $@
