# Each target makes or reuses .venv by itself.
#
#   make demo     set-up, then the whole pipeline on the bundled graph: 8 ingredients on 2 ranks, all soups, the report
#   make test     set-up, then all tests but those on a cluster and slow ones, in WORKERS processes at once (2)
#   make test-slow      set-up, then those that take longer and say of more cases what shorter ones say of some
#   make test-cluster   set-up, then those on a real Slurm and under Open MPI, which are skipped where none is installed
#   make bench    set-up, then time and memory beside PyG, on the bundled graph; bench-full: more graphs, every R
#   make check    set-up, then ruff and mypy --strict
#   make docs     set-up, then the pages of docs/ as a site, site/index.html; any warning, as of a link, is an error
#   make setup    set-up alone
#   make gpu-check OUT=DIR   on a machine with a GPU: what only that can show, by PYTHON's own PyTorch; no set-up
#   make gpu-wheels     what that needs and such a machine may lack, as wheels for its Python, into gpu-wheels/
#   make soak     40 ingredients and their soups while ranks are killed at random, some minutes
#   make cluster-tools   installs what tests/cluster wants (Slurm, munge, Open MPI, shellcheck) and a browser for tests of
#                        pages (Chromium), on Debian, as root
#
# MPI=system uses the mpirun on your PATH and its library in place of the MPICH that comes from PyPI; run `make clean`
# before you change between the two. RANKS, JOB and PYTHON may be set too: make demo RANKS=4 JOB=jobs/pubmed.toml

PYTHON ?= python3
MPI ?= embedded
RANKS ?= 2
JOB ?= jobs/few-labels-pubmed.toml
WORKERS ?= 2
OUT ?= gpu-check
GPU_PYTHON ?= 3.12
GPU_PLATFORMS := 1_x86_64 2014_x86_64 _2_17_x86_64 _2_24_x86_64 _2_27_x86_64 _2_28_x86_64
GPU_WHEELS := pydantic pydantic_core annotated-types typing-inspection typing-extensions pymetis tomli_w mpich mpi4py
VENV := .venv
READY := $(VENV)/.ready-$(MPI)

ifeq ($(MPI),embedded)
EXTRAS := dev,report,mpi
MPIRUN := $(VENV)/bin/mpirun
else ifeq ($(MPI),system)
EXTRAS := dev,report
MPIRUN := mpirun
else
$(error MPI=$(MPI): expected embedded or system)
endif

.PHONY: demo test test-slow test-cluster bench bench-full gpu-check gpu-wheels soak check docs setup cluster-tools clean

demo: $(READY)
	$(MPIRUN) -n $(RANKS) $(VENV)/bin/gnnsoup run $(JOB) --html

test: $(READY)
	$(VENV)/bin/python -m pytest -n $(WORKERS) --ignore=tests/cluster

test-slow: $(READY)
	$(VENV)/bin/python -m pytest -n $(WORKERS) -m slow

test-cluster: $(READY)
	$(VENV)/bin/python -m pytest -n $(WORKERS) tests/cluster

bench: $(READY)
	$(VENV)/bin/gnnsoup bench --output bench.json

bench-full: $(READY)
	$(VENV)/bin/gnnsoup bench --full --output bench-full.json

gpu-check:
	$(PYTHON) -m tests.gpu.check $(OUT) $(STAGES)

gpu-wheels: $(READY)
	$(VENV)/bin/python -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
	    --python-version $(GPU_PYTHON) $(addprefix --platform manylinux,$(GPU_PLATFORMS)) \
	    --constraint constraints.txt --dest gpu-wheels $(GPU_WHEELS)

soak: $(READY)
	$(VENV)/bin/python -m tests.soak

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.ready-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

setup: $(READY)

$(VENV)/.ready-docs: $(READY)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[docs]'
	@touch $@

$(READY): setup.py pyproject.toml constraints.txt
	@echo "setting up $(VENV): a minute or two, most of it PyTorch"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

cluster-tools:
	bash tests/cluster/tools.sh

clean:
	rm -rf $(VENV) build site *.egg-info
