# Everything a person or a machine runs here. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ROOT ?= .segue
DEMO_DATE := 2026-01-31
PY := .venv/bin/python
STAMP := .venv/.installed

# Variables count only where they stand on the command line: every shell has a USER, many have a FORMAT.
given = $(if $(filter command,$(firstword $(origin $1))),$($1))
# $(call flag,--name,VAR): the option with the variable's value, quoted by the shell; nothing where it is not given.
flag = $(if $(call given,$2),$1 "$$$2")
switch = $(if $(filter-out 0 no false,$(call given,$2)),$1)
root = --root "$${ROOT:-.segue}"
export ROOT

SHARED = $(root) $(call flag,--shards,SHARDS) $(call flag,--surface,SURFACE) $(call flag,--policy,POLICY) $(call flag,--waivers,WAIVERS)
INPUT = --raw "$$RAW" $(call flag,--format,FORMAT)

example-world = RAW=../world DATE=2026-01-31
example-batch = RAW=../listening DATE=2026-01-31
example-backfill = RAW=../listening FROM=2026-01-25 TO=2026-01-31
example-explain = USER=u0123456789 SURFACE=home
example-rollback = SURFACE=home
NEEDS := $(addprefix need-,RAW DATE FROM TO USER SURFACE)

.PHONY: help setup demo test batch backfill explain rollback status report world contracts benchmark check format clean $(NEEDS)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Create .venv and install into it, once; demo, test and the others do it by themselves

demo: $(STAMP) ## Write a synthetic world and run the whole road on it [ROOT=.segue SEED=7 SHARDS=2]
	@$(PY) -m jobs.demo --date $(DEMO_DATE) $(root) $(call flag,--seed,SEED) $(call flag,--shards,SHARDS)

test: $(STAMP) ## Run the tests [ARGS="-k name"]
	@$(PY) -m pytest $(call given,ARGS)

batch: need-RAW need-DATE $(STAMP) ## Run the road on your data: RAW=folder DATE=YYYY-MM-DD [FORMAT=raw|sessions|sequences|pairs ROOT= SHARDS= SURFACE= POLICY= WAIVERS=]
	@$(PY) -m jobs.batch $(INPUT) --date "$$DATE" $(SHARED)

backfill: need-RAW need-FROM need-TO $(STAMP) ## Run the road for each date: RAW=folder FROM=YYYY-MM-DD TO=YYYY-MM-DD [DRY_RUN=1, and as batch]
	@$(PY) -m jobs.backfill $(INPUT) --from "$$FROM" --to "$$TO" $(call switch,--dry-run,DRY_RUN) $(SHARED)

explain: need-USER need-SURFACE $(STAMP) ## Say why an item is in a set or not: USER=id SURFACE=home|now_playing [ITEM=id FORMAT=json ROOT=]
	@$(PY) -m jobs.explain --user "$$USER" --surface "$$SURFACE" $(call flag,--item,ITEM) $(call flag,--format,FORMAT) $(root)

rollback: need-SURFACE $(STAMP) ## Make the set before the live one live again: SURFACE=home|now_playing [ROOT=]
	@$(PY) -m jobs.release rollback --surface "$$SURFACE" $(root)

status: $(STAMP) ## Say what is live on each surface, and what it can be rolled back to [ROOT=]
	@$(PY) -m jobs.release status $(root)

report: $(STAMP) ## Write the report page again: [DATE=YYYY-MM-DD ROOT=]
	@$(PY) -m jobs.report $(call flag,--date,DATE) $(root)

world: need-RAW need-DATE $(STAMP) ## Write a synthetic world: RAW=new folder DATE=last day [PRESET=laptop|ci|bench SEED=7 EVENTS= DAYS= FORMAT=jsonl|parquet]
	@$(PY) -m jobs.world --out "$$RAW" --end "$$DATE" $(call flag,--preset,PRESET) $(call flag,--seed,SEED) \
	  $(call flag,--events,EVENTS) $(call flag,--days,DAYS) $(call flag,--format,FORMAT)

contracts: $(STAMP) ## Write what the contracts generate: released versions and their pages
	@$(PY) -m schemas.release
	@$(PY) -m jobs.raw_page

benchmark: $(STAMP) ## Measure the road beside a bare polars script [EVENTS= JSON=file]
	@$(PY) -m benchmarks.road $(call flag,--events,EVENTS) $(call flag,--json,JSON)

check: $(STAMP) ## Lint, types, formatting, and contracts against their released versions
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m schemas.release --check
	@$(PY) -m jobs.raw_page --check

format: $(STAMP) ## Sort imports and lay the code out
	@$(PY) -m ruff check --fix --select I .
	@$(PY) -m ruff format .

clean: ## Remove .venv, caches and build outputs; ROOT stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(NEEDS): need-%:
	@$(if $(call given,$*),:,$(error $* is missing. Example: make $(firstword $(MAKECMDGOALS)) $(example-$(firstword $(MAKECMDGOALS)))))

# The stamp is written last: an installation that was cut short starts over.
$(STAMP): pyproject.toml setup.py
	@python=; for one in $(or $(PYTHON),python3.11 python3); do \
	  if "$$one" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$one; break; fi; done; \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer was not found. Install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	echo "Installing into .venv with $$("$$python" --version); this happens once and takes a few minutes"; \
	"$$python" -m venv .venv
	@$(PY) -m pip install --disable-pip-version-check --progress-bar off -e '.[dev]' \
	  | awk '/^Collecting / {print "  " $$2; fflush()} /^Installing collected/ {print "  ... all downloaded, installing"; fflush()}'
	@touch $(STAMP)
