# Everything runs in .venv, made from requirements.lock; PYTHON is any Python from 3.11 on.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo verify-demo test test-slow mutants figures check docs bench accelerator lock

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/python -m compileall -q derive verify  # as installing a wheel does
	touch $@

# What deriving or measuring needs, alone; the other targets add what testing needs.
.venv/derive .venv/verify: requirements.lock pyproject.toml
	@echo "Installing $(if $(findstring verify,$@),33 packages: a minute or two,12 packages: half a minute)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable "$(if $(findstring verify,$@),.[verify],.)"
	touch $@

demo: .venv/derive
	$(BIN)/derive --optimizer adam --parameterization sp --alignment full --explain
	$(BIN)/derive table

# The measuring half: two small widths, the first step of Adam against what is derived.
verify-demo: .venv/verify
	$(BIN)/verify exponents --optimizer adam --parameterization sp --widths 64,128,256 --steps 1 --batch 64

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# What takes long: the remaining optimizers and parameterizations, widths to 4096, the transformer, whole processes.
test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# Nightly: faults planted in what predicts and what judges, and the score in docs/mutants.md; SAMPLE=25 tries 25 places
# of every module instead of all. cosmic-ray is installed here alone, so that no other job waits for it.
mutants: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check cosmic-ray==8.7.0
	$(BIN)/python -m tests.mutants $(if $(SAMPLE),--sample $(SAMPLE))

# Every table and figure of the paper, from stored results; with RERUN=1 the studies are run again first.
SCALE ?= cpu
figures: .venv/installed
	$(BIN)/python -m paper_figures $(if $(RERUN),--rerun $(SCALE))

# Without Material's notice, at every build, that it is kept up until 2027 only.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

check: docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site, in site/: the pages of docs/ and what the public names' docstrings say. A broken link fails.
docs: .venv/installed
	$(MKDOCS) build --strict

# Every benchmark in turn, each into its section of benchmarks/results/<device>.json; then the table of all.
BENCHMARKS := transformer measure sweep online atan2 derive symbols prescribe
bench: .venv/installed
	for each in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$each --out benchmarks/results || exit 1; done
	$(BIN)/python -m benchmarks.results

# What a rented accelerator can show in ten minutes; the same command goes on where it was cut.
MINUTES ?= 9
OUT ?= accelerator
accelerator: .venv/installed
	$(BIN)/python -m benchmarks.accelerator --minutes $(MINUTES) --out $(OUT)

# Without the extra torch, whose wheels are gigabytes; its tests skip themselves where it is missing.
lock:
	uv pip compile --universal --python-version 3.11 --extra verify --extra ray --extra scale --group dev --no-header --no-annotate --no-emit-index-url --output-file requirements.lock pyproject.toml
