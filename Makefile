# make demo    find faces in a photo and in a crowd made of it, pictures in out/demo/
# make test    the tests            (make test PYTEST_ARGS="-k geometry -x")
# make lint    style and format     (make format puts them right)
# make bench   speed of the shipped detectors, and their accuracy where the corpus is found, into out/bench/
# make clean   remove what the above wrote; make distclean: the environment too
#
# All share one environment, .venv, made on first use and left alone while setup.py, pyproject.toml and constraints.txt stay
# the same. PYTHON=python3.12 chooses the interpreter, EXTRA=cu112 MXNet for CUDA 11.2.

VENV   ?= .venv
EXTRA  ?= cpu
PYTHON ?=

PY  := $(VENV)/bin/python
OUT := out
# Where make bench looks for det_val.jsonl.
DATA := $(or $(GLUONFACE_FACEDATA),../shared/facedata)

CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
# MXNet uses one thread unless told; a value of the caller's wins.
export OMP_NUM_THREADS ?= $(CORES)
export MPLBACKEND ?= Agg

# The stamp's name carries everything the environment depends on, so a change asks for another file. Without a wish for an
# interpreter any stamp of the rest will do.
KEY   := $(shell cat setup.py pyproject.toml constraints.txt .ci/venv.sh | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.ready-$(EXTRA)-$(KEY)
ifeq ($(PYTHON),)
READY := $(firstword $(wildcard $(STAMP)*) $(STAMP))
else
READY := $(STAMP)-$(shell command -v $(PYTHON) | cksum | cut -d' ' -f1)
endif

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format bench clean distclean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

venv: $(READY)

$(READY):
	@VENV="$(VENV)" EXTRA="$(EXTRA)" PYTHON="$(PYTHON)" STAMP="$@" sh .ci/venv.sh

demo: $(READY)
	$(PY) benchmarks/demo.py --out $(OUT)/demo $(DEMO_ARGS)

test: $(READY)
	$(PY) -m pytest $(PYTEST_ARGS)

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(READY)
	@set -e; mkdir -p $(OUT)/bench; \
	models=$$($(PY) -c 'import gluonface; print(*gluonface.list_models(pretrained=True, task="detection"))'); \
	$(PY) benchmarks/latency.py --model $$models --size 640 --json $(OUT)/bench/latency.json $(BENCH_ARGS); \
	if [ ! -f "$(DATA)/det_val.jsonl" ]; then \
	    echo "accuracy is not measured: no det_val.jsonl in $(DATA) (GLUONFACE_FACEDATA names another folder)"; exit; \
	fi; \
	for model in $$models; do \
	    $(PY) benchmarks/eval_detection.py --model $$model --data "$(DATA)/det_val.jsonl" --size 640 \
	        --json $(OUT)/bench/detection_$$model.json; \
	done; \
	for model in $$($(PY) -c 'import gluonface; print(*gluonface.list_models(pretrained=True, task="landmarks"))'); do \
	    $(PY) benchmarks/eval_landmarks.py --model $$model --data "$(DATA)/lmk_val.jsonl" --source helen \
	        --json $(OUT)/bench/landmarks_$$model.json; \
	done

clean:
	rm -rf $(OUT) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
