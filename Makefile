# make train, make test: each sets up .venv itself. Only Python 3.11+ and make have to be there.
PYTHON ?= python3
ENVIRONMENT := .venv
RUN := $(ENVIRONMENT)/bin/python
READY := $(ENVIRONMENT)/ready
# one thread in each process is steadier than two on two cores
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest

.PHONY: train test check format clean

train: $(READY)  ## make a small set of videos, train on it, and say what to try next
	$(RUN) train.py

test: $(READY)  ## every test
	$(PYTEST)

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
