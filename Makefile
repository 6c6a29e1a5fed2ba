# make run     install what is needed and show all of it: `voicebus demo`
# make test    install what is needed and run the tests
# make chaos   MINUTES=10: kill, freeze and cut at random while conversations go on; the table;
#              before that, CALLS=10000 to tools while the pool is killed. SEED=… repeats a run
# make matrix  each process at each moment of a conversation, killed and frozen; five minutes
# make soak    MINUTES=60: twenty conversations at a time; memory and descriptors, and a picture
# make bench   measure: ours beside a bare client, each goal with its figure; under ten minutes
# make bench-peers  the same stalls, latency and cost with the peers, each in its own environment
# make check   lint, formatting, types, import rules, generated schemas
#
# Everything goes into .venv. What is installed already is not installed again. From outside Python
# come flite, the simulator's voice, and for one test a browser; as root they are installed with
# apt-get.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120
# What a missing flite means: the demo cannot do without; tests that need it skip themselves.
FLITE_MISSING := 1
# Tests at a time: most of them wait for processes, so that more than there are cores pay.
WORKERS ?= 3
export PYTHONUNBUFFERED := 1

.PHONY: help run test chaos matrix soak bench bench-peers check format schemas flite chromium clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -9

run: $(VENV)/.with-speech flite
	@$(BIN)/voicebus demo

test: FLITE_MISSING := 0
test: $(VENV)/.with-dev flite chromium
	@$(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder

chaos: MINUTES ?= 10
chaos: CALLS ?= 10000
chaos: $(VENV)/.with-dev
	@CHAOS_CALLS=$(CALLS) $(if $(SEED),CHAOS_SEED=$(SEED)) \
		$(BIN)/python -m pytest -q -s tests/services/tools/test_chaos.py
	@$(BIN)/voicebus chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

matrix: $(VENV)/.with-dev
	@MATRIX=whole $(BIN)/python -m pytest -q tests/end_to_end/test_fault_matrix.py

soak: MINUTES ?= 60
soak: $(VENV)/.with-bench
	@$(BIN)/voicebus soak --minutes $(MINUTES) --sessions 20 --out var/soak

bench: $(VENV)/.with-bench
	@$(BIN)/python -P -m voicebus.benchmarks

# A peer that cannot be installed is named with the reason, and the others are measured.
PEERS := mojentic openai-agents pipecat livekit
bench-peers: $(VENV)/.with-bench $(PEERS:%=benchmarks/.venvs/%/.installed)
	@$(BIN)/python -P -m voicebus.benchmarks peers --out benchmarks/results/peers

benchmarks/.venvs/%/.installed: benchmarks/peers/%.txt
	@echo "installing $* into benchmarks/.venvs/$*"
	@mkdir -p $(@D)
	@{ $(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip --disable-pip-version-check --quiet \
		install -r $< && rm -f $(@D).failed; } >$(@D).log 2>&1 && touch $@ || { \
		rm -rf $(@D)/bin/python; tail -3 $(@D).log >$(@D).failed; \
		echo "make: $* could not be installed, see $(@D).log"; }

check: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -P -m voicebus.bus.schemas --check

format: $(VENV)/.with-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(VENV)/.with-dev
	$(BIN)/python -P -m voicebus.bus.schemas

clean:
	rm -rf $(VENV) build dist src/*.egg-info var benchmarks/.venvs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: Voicebus needs Python 3.11 or newer; $(PYTHON) is" \
			"$$($(PYTHON) --version 2>/dev/null || echo 'not there')." \
			"Name another one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing python3-venv"; \
			{ $(APT) update && $(APT) install --no-install-recommends python3-venv; } >/dev/null; \
		else \
			echo "make: $(PYTHON) cannot make virtual environments." \
				"On Debian: sudo apt-get install python3-venv" >&2; exit 1; \
		fi; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.with-speech: pyproject.toml | $(BIN)/python
	@if [ $(VENV)/.with-dev -nt pyproject.toml ]; then :; else \
		echo "installing Voicebus and its speech packages into $(VENV) (a minute or two)"; \
		$(PIP) install --editable '.[speech]'; fi
	@touch $@

$(VENV)/.with-dev: pyproject.toml | $(BIN)/python
	@echo "installing Voicebus, its speech and its development packages into $(VENV)"
	@$(PIP) install --editable '.[speech,dev]'
	@touch $@

$(VENV)/.with-bench: pyproject.toml | $(VENV)/.with-dev
	@echo "installing matplotlib into $(VENV)"
	@$(PIP) install --editable '.[speech,dev,bench]'
	@touch $@

flite:
	@command -v flite >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing flite, the simulator's voice"; \
			{ $(APT) update && $(APT) install --no-install-recommends flite; } >/dev/null || { \
				echo "make: flite could not be installed; try: apt-get install flite" >&2; exit 1; }; \
		else \
			echo "make: flite, the simulator's voice, is missing." \
				"On Debian: sudo apt-get install flite; on macOS: brew install flite" >&2; exit $(FLITE_MISSING); \
		fi; }

# Without it the tests of the gateway's page skip themselves, and say so.
chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing chromium, which the gateway's page is tested in (a minute)"; \
			{ $(APT) update && $(APT) install --no-install-recommends chromium; } >/dev/null || \
				echo "make: chromium could not be installed; the page is not tested" >&2; \
		else \
			echo "make: without chromium the gateway's page is not tested." \
				"On Debian: sudo apt-get install chromium" >&2; \
		fi; }
