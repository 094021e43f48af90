# `make book` and `make test` do everything on a fresh machine with Python 3.11 to 3.13; `make help` lists the rest.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3 python,$(shell \
	$(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $(p))))
VENV := .venv
RUN := $(VENV)/bin/python
# Whatever else the user's pip is told, it installs into $(VENV), and versions are pinned without hashes.
PIP := env -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT PIP_USER=0 PIP_REQUIRE_HASHES=0 PIP_NO_DEPS=0 \
	$(RUN) -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup book reproduce pdf students test test-slow test-ray axe links measure verify-runs bench size lint tidy clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(VENV)/complete  ## create .venv and install the pinned packages

$(VENV)/complete: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or run make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -r requirements.txt
	$(PIP) install --no-deps -e .
	@touch $@

book: setup  ## execute the chapters on the published runs, build the site in _build/html
	$(RUN) -m chunkkv_lib book

reproduce: book  ## build the book a second time, in _build/again, and compare every byte with the first
	$(RUN) -m chunkkv_lib book --output _build/again
	diff -r _build/html _build/again
	@echo "Both builds are the same, byte for byte."

pdf: book  ## the whole book as one PDF, _build/book.pdf, and its report, _build/summary.pdf (needs Chromium)
	$(RUN) -m chunkkv_lib pdf

test: setup  ## run all tests, a file to a process
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: setup  ## the tests that take a minute or more each
	$(RUN) -m pytest -m slow

students: setup  ## the chapters without their solutions, in students/
	$(RUN) -m chunkkv_lib students

test-ray: setup  ## install Ray and run the tests that need it, on a local cluster of several processes
	$(PIP) install -r requirements-ray.txt
	$(RUN) -m pytest tests/test_cluster.py

axe: setup  ## fetch axe-core, with which the tests look for barriers in the site's pages (needs Chromium)
	$(RUN) tests/axe.py

links: book  ## ask whether the book's external links still lead somewhere (needs a network)
	$(VENV)/bin/jupyter-book build _build/sources/published --builder linkcheck -q

measure: setup  ## measure the quick profile into runs/quick
	$(RUN) -m chunkkv_lib measure --profile quick

verify-runs: setup  ## measure a few sequences of each published run again and compare
	$(RUN) -m chunkkv_lib verify

bench: setup  ## time and memory against a plain prefill; prints a table, writes data/bench/latest.json
	$(RUN) -m chunkkv_lib bench

size: setup  ## lines, entries and one-use functions of the library, against their limits
	$(RUN) tests/size.py

lint: setup  ## check the style of the code
	$(RUN) -m ruff check .

tidy: setup  ## remove outputs from the notebooks and make their cell ids stable
	$(RUN) -m chunkkv_lib tidy

clean:  ## remove what was built here; a reader's runs, downloads and converted models stay
	rm -rf _build _runs
