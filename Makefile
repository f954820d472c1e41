# Each target makes .venv and installs what it needs: any of them may be the first on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_DISABLE_PROGRESS_BARS = 1

.PHONY: demo test check bench clean

demo: $(READY)
	$(BIN)/tempo run configs/tiny.toml --out out/demo

test: $(READY)
	$(BIN)/pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/shared_prefix.py

# torch first and pinned: left to itself, pip would fetch the CUDA build. torchvision without its needs, for
# the same reason; transformers uses only its Python part.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch numpy
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) out
