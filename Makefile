# make demo    find faces in a photo and in a crowd made of it, pictures in out/demo/
# make test    the tests            (make test PYTEST_ARGS="-k geometry -x"; WORKERS=0: one after another)
# make lint    style and format     (make format puts them right)
# make test-arm  compile for AArch64 and run that under emulation (Debian, Ubuntu)
# make bench   speed of the shipped models, compiled ones beside other engines, and accuracy where the corpus is found,
#              into out/bench/
# make clean   remove what the above wrote; make distclean: the environment too
#
# All share one environment, .venv, made on first use and left alone while setup.py, pyproject.toml and constraints.txt stay
# the same; make test adds TVM, onnx and onnxruntime to it, make bench OpenVINO too. After make demo alone, gluonface
# compile says which extra to add. PYTHON=python3.12 chooses the interpreter, EXTRA=cu112 MXNet for CUDA 11.2.

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

# What each level of the environment holds; each has all of those before it.
LEVELS     := demo test bench
SETS_demo  := train,demo
SETS_test  := $(SETS_demo),test
SETS_bench := $(SETS_test),deploy,tune,bench
upto = $(if $(filter demo,$(1)),demo,$(if $(filter test,$(1)),demo test,$(LEVELS)))

# The stamp's name carries everything the environment depends on, so a change asks for another file. Without a wish for an
# interpreter any stamp of the rest will do.
KEY   := $(shell cat setup.py pyproject.toml constraints.txt .ci/venv.sh | cksum | cut -d' ' -f1)
stamp  = $(VENV)/.ready-$(1)-$(EXTRA)-$(KEY)$(WISH)
ifeq ($(PYTHON),)
WISH  :=
ready  = $(firstword $(wildcard $(stamp)*) $(stamp))
else
WISH  := -$(shell command -v $(PYTHON) | cksum | cut -d' ' -f1)
ready  = $(stamp)
endif
READY_demo  := $(call ready,demo)
READY_test  := $(call ready,test)
READY_bench := $(call ready,bench)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-arm lint format bench clean distclean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

venv: $(READY_test)

define level
$(READY_$(1)):
	@VENV="$(VENV)" EXTRA="$(EXTRA)" SETS="$(SETS_$(1))" PYTHON="$(PYTHON)" \
	    STAMPS="$(foreach each,$(call upto,$(1)),$(call stamp,$(each)))" sh .ci/venv.sh
endef
$(foreach each,$(LEVELS),$(eval $(call level,$(each))))

demo: $(READY_demo)
	$(PY) benchmarks/demo.py --out $(OUT)/demo $(DEMO_ARGS)

# First what needs the machine to itself. Then a process a core, each with one thread; a file's tests stay together, as
# what they make is made once a process. Status 5, no test, is one only where both say so.
WORKERS ?= $(CORES)

test: $(READY_test)
	@export OMP_NUM_THREADS=1; alone=0; others=0; \
	$(PY) -m pytest -m alone $(PYTEST_ARGS) || alone=$$?; \
	$(PY) -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile -m "not alone" $(PYTEST_ARGS) || others=$$?; \
	case $$alone/$$others in 0/0|0/5|5/0) ;; *) echo "status: $$alone alone, $$others the others"; exit 1;; esac

test-arm: $(READY_test)
	PY="$(PY)" OUT="$(OUT)/arm" PYTEST_ARGS="$(PYTEST_ARGS)" sh .ci/arm.sh

lint: $(READY_test)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(READY_test)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The compiled nets are the first detector and the first landmark net, shortly: python benchmarks/deploy.py does all.
bench: $(READY_bench)
	@set -e; mkdir -p $(OUT)/bench; \
	detectors=$$($(PY) -c 'import gluonface; print(*gluonface.list_models(pretrained=True, task="detection"))'); \
	nets=$$($(PY) -c 'import gluonface; print(*gluonface.list_models(pretrained=True, task="landmarks"))'); \
	$(PY) benchmarks/latency.py --model $$detectors --size 640 --json $(OUT)/bench/latency.json $(BENCH_ARGS); \
	data=; if [ -f "$(DATA)/det_val.jsonl" ]; then data="--data $(DATA)/det_val.jsonl"; fi; \
	$(PY) benchmarks/deploy.py --model $${detectors%% *} $${nets%% *} --size 480x640 --threads 1 --rounds 15 $$data \
	    --artefacts $(OUT)/deploy --results $(OUT)/bench/deploy --picture $(OUT)/bench/deploy.png; \
	if [ -z "$$data" ]; then \
	    echo "accuracy is not measured: no det_val.jsonl in $(DATA) (GLUONFACE_FACEDATA names another folder)"; exit; \
	fi; \
	for model in $$detectors; do \
	    $(PY) benchmarks/eval_detection.py --model $$model --data "$(DATA)/det_val.jsonl" --size 640 \
	        --json $(OUT)/bench/detection_$$model.json; \
	done; \
	for model in $$nets; do \
	    $(PY) benchmarks/eval_landmarks.py --model $$model --data "$(DATA)/lmk_val.jsonl" --source helen \
	        --json $(OUT)/bench/landmarks_$$model.json; \
	done

clean:
	rm -rf $(OUT) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
