#!/usr/bin/env bash
# Runs the study's main rows with an embedded model of ten times the parameters. It has not run on a GPU yet, so its
# time there is unknown; tests/benchmarks/test_gpu_study.py runs it on a CPU at tiny sizes.
#
#     PYTHON=.venv/bin/python benchmarks/gpu_study.sh
#
# It prints the progress and ends with the main table and the claims; $OUT keeps the model card, the results and the
# logs. After a stop the same command continues: a model with a card is not made again, and neither are finished rows.
# Every value below can be set from outside, like SEEDS=100 to look for learning rates.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
WORK=${WORK:-out/study-large}        # the model, where the study looks for it, and the study's files
OUT=${OUT:-$WORK/results}            # what to keep: the card, study.json, study.md, plots, logs
STUDY=${STUDY:-configs/study_large.toml}
SEEDS=${SEEDS:-1,2}
SIZE=${SIZE:-large}
DEVICE=${DEVICE:-auto}
VISION_STEPS=${VISION_STEPS:-1500}
STEPS=${STEPS:-4000}                 # of the language model; MINUTES may end them earlier
MINUTES=${MINUTES:-4}
LOADERS=${LOADERS:-6}                # the examples of a step take 0.1 s of a core
STORIES=${STORIES:-60}               # that the card is measured on
WORKERS=${WORKERS:-2}                # processes, each for one seed; one alone leaves a GPU idle

export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
mkdir -p "$OUT"

if [ ! -f "$WORK/model/scores.json" ]; then
  "$PYTHON" -m research.embedded_model --out "$WORK/model" --size "$SIZE" --device "$DEVICE" --optimizer muon \
    --vision-steps "$VISION_STEPS" --steps "$STEPS" --max-minutes "$MINUTES" --num-loaders "$LOADERS" \
    --num-stories "$STORIES" | tee "$OUT/training.log"
fi
cp "$WORK/model/README.md" "$OUT/card.md"

"$PYTHON" -m research.study "$STUDY" --out "$WORK/study" --seeds "$SEEDS" --workers "$WORKERS" \
  --rows base,sft_only,sft_then_dpo,method,ceiling | tee -a "$OUT/study.log"
cp -r "$WORK/study/study.json" "$WORK/study/study.md" "$WORK/study/study" "$OUT"
