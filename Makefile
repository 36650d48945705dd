# Retort: make demo, make test, make bench. Everything lives in .venv; pip's own settings are honoured.

PYTHON ?= python3
PORT ?= 8000
DATA ?=
ITEMS ?=
COLUMNS ?=
OUT ?= .demo
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types bench renew clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## make .venv and install everything, pinned by constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[embedded,train,text,test]'
	@touch $@

demo: $(INSTALLED)  ## simulate, train, distil, export, serve on PORT, print a curl; DATA=file ITEMS=file uses your own
	$(BIN)/python -m training demo --port $(PORT) --out $(OUT) $(if $(DATA),--interactions $(DATA)) $(if $(ITEMS),--items $(ITEMS)) $(if $(COLUMNS),--columns $(COLUMNS))

test: $(INSTALLED) lint types  ## lint, types and all tests, against real servers
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## mypy, strict on service
	$(BIN)/mypy

bench: $(INSTALLED)  ## the service against a FastAPI echo, large catalogues, overload, faults, swaps (needs wrk; half an hour)
	-OMP_NUM_THREADS=1 $(BIN)/python tests/bench/throughput.py --bundle $(OUT)/run/bundle
	-OMP_NUM_THREADS=1 $(BIN)/python tests/bench/latency.py \
		--bundle $(OUT)/run/bundle --histories $(OUT)/run/prepared/histories.jsonl.gz
	-OMP_NUM_THREADS=1 $(BIN)/python tests/bench/catalogue.py --bundle $(OUT)/run/bundle
	-OMP_NUM_THREADS=1 $(BIN)/python tests/bench/overload.py --bundle $(OUT)/run/bundle
	-OMP_NUM_THREADS=1 $(BIN)/python tests/bench/faults.py \
		--bundle $(OUT)/run/bundle --histories $(OUT)/run/prepared/histories.jsonl.gz
	-OMP_NUM_THREADS=1 $(BIN)/python tests/bench/swaps.py --bundle $(OUT)/run/bundle

renew: $(INSTALLED)  ## what the images are held to: sums of wheels, newest patch releases and digests of images
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/python docker/renew.py $(if $(REGISTRY),--registry $(REGISTRY),locks)

clean:  ## remove what the demo and the tools left
	rm -rf .demo .pytest_cache .mypy_cache .ruff_cache build *.egg-info
