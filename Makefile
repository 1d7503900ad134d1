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
root = --root "$$ROOT"
export ROOT

SHARED = $(root) $(call flag,--shards,SHARDS) $(call flag,--surface,SURFACE) $(call flag,--policy,POLICY) $(call flag,--waivers,WAIVERS) $(call flag,--device,DEVICE) $(call flag,--text_model,TEXT_MODEL)
RAW_INPUT = --raw "$$RAW" $(call flag,--format,FORMAT)

example-world = RAW=../world DATE=2026-01-31
example-batch = RAW=../listening DATE=2026-01-31
example-backfill = RAW=../listening FROM=2026-01-25 TO=2026-01-31
example-explain = USER=u009e291030 SURFACE=home, or: make explain SEED=tr0013161 SURFACE=now_playing
example-report = DATE=2026-01-31
example-rollback = SURFACE=home
example-label = BUNDLE=b1946ac92492d234 LABEL=canary
example-evaluate = FROM=2026-01-20 TO=2026-01-23
example-off-policy = FROM=2026-01-20 TO=2026-01-23
example-eval-diff = BASE=../before HEAD=../after
example-delta = RAW=../changed
example-replay = RAW=../world SPEED=20x
example-watch = USER=u009e291030
example-plan = ITEMS=1000000 USERS=10000000 DIM=128 WORKERS=100
NEEDS := $(addprefix need-,RAW DATE FROM TO USER SEED SURFACE BUNDLE LABEL ITEMS USERS DIM WORKERS BASE HEAD)

.PHONY: help setup demo test batch backfill explain rollback status bundles label audit report world plan evaluate eval-diff off-policy stream overlay delta replay watch replay-dlq contracts benchmark benchmark-quality soak check format clean $(NEEDS)

help: ## List the targets
	@awk -F ': .*## ' '/^[a-z-]+: .*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile
	@echo "Everything is written under ROOT=folder or gs://bucket/prefix; .segue if none is given."

setup: $(STAMP) ## Create .venv and install into it, once; the other targets do it by themselves [PIP=options of its install]

demo: $(STAMP) ## Write a synthetic world and run the whole road on it [SEED=7 SHARDS=2]
	@$(PY) -m jobs.demo --date $(DEMO_DATE) $(root) $(call flag,--seed,SEED) $(call flag,--shards,SHARDS)

# Two at once: a road at work takes up to 3 GB. ARGS=-n0 runs them one after the other, as a debugger needs it.
test: $(STAMP) ## Run the tests, two at once [ARGS="-k name"]
	@$(PY) -m pytest -n auto --maxprocesses 2 --dist loadfile --no-loadscope-reorder $(call given,ARGS)

batch: need-RAW need-DATE $(STAMP) ## Run the road on your data: RAW= DATE= [FORMAT= SHARDS= SURFACE= POLICY= WAIVERS= DEVICE= TEXT_MODEL=]
	@$(PY) -m jobs.batch $(RAW_INPUT) --date "$$DATE" $(SHARED)

backfill: need-RAW need-FROM need-TO $(STAMP) ## Run the road for each date of a range: RAW=folder FROM= TO= [DRY_RUN=1, and as batch]
	@$(PY) -m jobs.backfill $(RAW_INPUT) --from "$$FROM" --to "$$TO" $(call switch,--dry-run,DRY_RUN) $(SHARED)

explain: $(if $(filter now_playing,$(call given,SURFACE)),need-SEED,need-USER need-SURFACE) $(STAMP) ## Say why an item is in a set, or why not: USER= SURFACE=home, or SEED= SURFACE=now_playing [ITEM= FORMAT=json]
	@$(PY) -m jobs.explain --surface "$$SURFACE" $(call flag,--user,USER) $(call flag,--seed,SEED) $(call flag,--item,ITEM) \
	  $(call flag,--market,MARKET) $(call flag,--tier,TIER) $(call flag,--date,DATE) $(call flag,--format,FORMAT) $(root)

rollback: need-SURFACE $(STAMP) ## Make the set before the live one live again: SURFACE= [UNDO=1 RAW=newer tombstones]
	@$(PY) -m jobs.release rollback --surface "$$SURFACE" $(call switch,--undo,UNDO) $(call flag,--raw,RAW) $(root)

status: $(STAMP) ## Say what is live on each surface, and what it can be rolled back to
	@$(PY) -m jobs.release status $(root)

bundles: $(STAMP) ## List what sets were made from: label, age, size, checks, metrics
	@$(PY) -m jobs.release bundles $(root)

label: need-BUNDLE need-LABEL $(STAMP) ## Put a label on a bundle that is not live: BUNDLE= LABEL=candidate, canary or retired
	@$(PY) -m jobs.release label --bundle "$$BUNDLE" --label "$$LABEL" $(root)

audit: $(STAMP) ## Look for what was erased or taken down in all that is reached from what is live [RAW=newer tombstones DATE=]
	@$(PY) -m jobs.audit $(root) $(call flag,--raw,RAW) $(call flag,--date,DATE)

report: need-DATE $(STAMP) ## Write the report page of a date again: DATE=
	@$(PY) -m jobs.report --date "$$DATE" $(root)

evaluate: need-FROM need-TO $(STAMP) ## Judge the sets of a range of dates by what was played after each: FROM= TO= [RAW=folder with later events]
	@$(PY) -m jobs.evaluate run --from "$$FROM" --to "$$TO" $(root) $(call flag,--raw,RAW)

eval-diff: need-BASE need-HEAD $(STAMP) ## May HEAD replace BASE? BASE= HEAD= judged roots or git refs [PRESET= INPUT= DATE= SHARDS= OUT=file WAIVERS=]
	@$(PY) -m jobs.evaluate diff --base "$$BASE" --head "$$HEAD" $(root) $(call flag,--input,INPUT) $(call flag,--date,DATE) \
	  $(call flag,--preset,PRESET) $(call flag,--shards,SHARDS) $(call flag,--out,OUT) $(call flag,--waivers,WAIVERS)

off-policy: need-FROM need-TO $(STAMP) ## Estimate what another way of exploring would have earned: FROM= TO= [TARGET=popularity RAW=]
	@$(PY) -m jobs.evaluate off-policy --from "$$FROM" --to "$$TO" $(root) $(call flag,--target,TARGET) $(call flag,--raw,RAW)

world: need-RAW need-DATE $(STAMP) ## Write a synthetic world: RAW=new folder DATE=its last day [PRESET=laptop SEED=7 EVENTS= DAYS= FORMAT=jsonl]
	@$(PY) -m jobs.world --out "$$RAW" --end "$$DATE" $(call flag,--preset,PRESET) $(call flag,--seed,SEED) \
	  $(call flag,--events,EVENTS) $(call flag,--days,DAYS) $(call flag,--format,FORMAT)

plan: need-ITEMS need-USERS need-DIM need-WORKERS $(STAMP) ## Say how retrieval should run: ITEMS= USERS= DIM= WORKERS= [RECALL= MEMORY= MARKETS= K= HOURS= GPUS= BFLOAT16=1]
	@$(PY) -m jobs.plan --items "$$ITEMS" --users "$$USERS" --dim "$$DIM" --workers "$$WORKERS" $(call flag,--recall,RECALL) \
	  $(call flag,--memory,MEMORY) $(call flag,--markets,MARKETS) $(call flag,--k,K) $(call flag,--hours,HOURS) \
	  $(call flag,--gpus,GPUS) $(call switch,--bfloat16,BFLOAT16)

stream: $(STAMP) ## Turn events from Pub/Sub, or its emulator, into Now Playing sets [PROJECT= PORT=9464 STATE= PROCESSES=1]
	@$(PY) -m jobs.stream $(root) $(call flag,--project,PROJECT) $(call flag,--port,PORT) $(call flag,--state,STATE) \
	  $(call flag,--processes,PROCESSES)

overlay: $(STAMP) ## Make Home sets of whoever listened since the batch, once an hour [PROJECT= STATE= WAIVERS=]
	@$(PY) -m jobs.overlay $(root) $(call flag,--project,PROJECT) $(call flag,--state,STATE) $(call flag,--waivers,WAIVERS)

delta: need-RAW $(STAMP) ## Serve new and changed items before the next batch: RAW=folder with items/ [TEXT_MODEL= DEVICE= WAIVERS=]
	@$(PY) -m jobs.delta --raw "$$RAW" $(root) $(call flag,--policy,POLICY) $(call flag,--waivers,WAIVERS) \
	  $(call flag,--device,DEVICE) $(call flag,--text_model,TEXT_MODEL)

replay: need-RAW $(STAMP) ## Publish events for the stream: RAW= [SPEED=20x or RATE=200, DUPLICATES=.05 DISORDER= LATE= MALFORMED= LIMIT=]
	@$(PY) -m jobs.replay $(RAW_INPUT) $(root) $(call flag,--project,PROJECT) $(call flag,--speed,SPEED) $(call flag,--rate,RATE) \
	  $(call flag,--duplicates,DUPLICATES) $(call flag,--disorder,DISORDER) $(call flag,--late,LATE) \
	  $(call flag,--malformed,MALFORMED) $(call flag,--limit,LIMIT) $(call flag,--seed,SEED) $(call flag,--date,DATE)

watch: need-USER $(STAMP) ## Show a listener's set as the stream changes it: USER= [SURFACE=home PROJECT=]
	@$(PY) -m jobs.watch --user "$$USER" $(root) $(call flag,--surface,SURFACE) $(call flag,--project,PROJECT)

replay-dlq: $(STAMP) ## Send dead letters again that the code of today takes; twice does nothing twice [PROJECT= STATE=]
	@$(PY) -m jobs.replay_dlq $(root) $(call flag,--project,PROJECT) $(call flag,--state,STATE)

contracts: $(STAMP) ## Write what the contracts generate: released versions and their pages
	@$(PY) -m schemas.release
	@$(PY) -m jobs.raw_page

benchmark: $(STAMP) ## Measure the road beside a bare polars script [EVENTS= JSON=file]
	@$(PY) -m benchmarks.road $(call flag,--events,EVENTS) $(call flag,--json,JSON)

benchmark-quality: $(STAMP) ## Fit, choose and judge on the public sets, or on DATA=folder KIND=sessions, sequences or pairs [JSON=file]
	@OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=1 $(PY) -m benchmarks.quality $(call flag,--data,DATA) $(call flag,--kind,KIND) $(call flag,--json,JSON)

soak: $(STAMP) ## Kill demo runs KILLS=20 times at random, then run DAYS=30 clean days in a row [SEED=7]; about an hour
	@$(PY) tests/robustness/kill.py --demo --kills $(or $(call given,KILLS),20) $(call flag,--seed,SEED)
	@$(PY) tests/robustness/clean_days.py --days $(or $(call given,DAYS),30) $(call flag,--seed,SEED)

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
	@PYTHONWARNINGS=ignore $(PY) -m pip install --disable-pip-version-check --progress-bar off $(call given,PIP) -e '.[dev]' \
	  | awk '/^Collecting / {print "  " $$2; fflush()} /^Installing collected/ {print "  ... all downloaded, installing"; fflush()}'
	@touch $(STAMP)
