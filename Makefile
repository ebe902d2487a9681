# Every target makes its virtual environment by itself on first use.
#   make ask Q="List all countries in South America with capital, currency and area."
PYTHON ?= python3.11
Q ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# uv is fast but does not read pip's settings; this hands it the one that can matter.
export UV_FIND_LINKS := $(PIP_FIND_LINKS)

.PHONY: ask serve doctor test lint format clean

ask: $(VENV)/core.stamp
	@$(BIN)/python -m wideseek.ask $(ARGS) "$$WIDESEEK_QUESTION"
ask: export WIDESEEK_QUESTION := $(Q)

serve: $(VENV)/serve.stamp
	$(BIN)/python -m wideseek.serve $(ARGS)

doctor: $(VENV)/core.stamp
	$(BIN)/python -m wideseek.doctor $(ARGS)

# A process a core with one thread each; a file's tests stay in one process, since they share what is dear to set up.
test: export OMP_NUM_THREADS := 1
test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build

$(BIN)/uv:
	@command -v $(PYTHON) >/dev/null 2>&1 && $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/core.stamp: pyproject.toml | $(BIN)/uv
	@echo "installing wideseek into $(VENV)" >&2
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --editable .
	@touch $@

$(VENV)/serve.stamp: $(VENV)/core.stamp
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --editable ".[serve]"
	@touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --editable ".[dev]"
	@touch $@
