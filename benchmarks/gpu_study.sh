#!/usr/bin/env bash
# The study's main rows with an embedded model ten times as large, for a quarter of an hour of one GPU. It has not
# run on one yet; tests/test_gpu_study.py runs it on a CPU at tiny sizes.
#
#     PYTHON=.venv/bin/python benchmarks/gpu_study.sh
#
# Stopped, the same command goes on: a model that has its card is not made again, nor a job of the study that is
# done. Every value below can be given from outside, like SEEDS=100 to look for learning rates.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
WORK=${WORK:-out/study-large}        # the model, where the study looks for it, and the study's own files
OUT=${OUT:-$WORK/results}            # what to keep: the card, study.json, study.html, logs
STUDY=${STUDY:-configs/study_large.toml}
SEEDS=${SEEDS:-1,2}
SIZE=${SIZE:-large}
DEVICE=${DEVICE:-auto}
EYESIGHT_STEPS=${EYESIGHT_STEPS:-1500}
STEPS=${STEPS:-4000}                 # of lessons; MINUTES ends them earlier, the learning rate goes by both
MINUTES=${MINUTES:-4}
LOADERS=${LOADERS:-6}                # a lesson takes 0.1 s of a core
STORIES=${STORIES:-60}               # of the card
WORKERS=${WORKERS:-6}                # chains of phases side by side: three of a seed; one alone leaves a GPU idle

export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
mkdir -p "$OUT"

if [ ! -f "$WORK/model/scores.json" ]; then
  "$PYTHON" -m research.embedded_model.base_model --out "$WORK/model" --size "$SIZE" --device "$DEVICE" \
    --optimizer muon --eyesight-steps "$EYESIGHT_STEPS" --steps "$STEPS" --max-minutes "$MINUTES" \
    --num-loaders "$LOADERS" | tee "$OUT/training.log"
  "$PYTHON" -m research.embedded_model.card "$WORK/model" --num-stories "$STORIES" --device "$DEVICE"
fi
cp "$WORK/model/README.md" "$OUT/card.md"

"$PYTHON" -m python -m research.study "$STUDY" --out "$WORK/study" --seeds "$SEEDS" --workers "$WORKERS" \
  --rows base,sft_only,sft_then_dpo,method,best | tee -a "$OUT/study.log"
cp "$WORK/study/study.json" "$WORK/study/study.html" "$OUT"
