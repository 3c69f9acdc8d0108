#!/usr/bin/env bash
# How the starter in this folder is made, from nothing: drawn faces, DSID, the text-to-image base, MEAF, the judge, the figures.
# bash weights/recipe.sh [RUNS]   Every step can be stopped and started again; it goes on where it was. CPU is enough.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs}
python=${PYTHON:-python3}
train() { $python -m "deepexpo_models.training.$@"; }

$python -m deepexpo_models.data.draw --out "$runs/faces" --shards 50

# DSID: the encoders from labels and contrasts, then the generator on the frozen encoders.
train train_dsid --out "$runs/dsid-encoders" --name starter --synthetic "$runs/faces" --steps 1280 --batch-size 48 \
    --generated 0 --augment 0.5 --warmup 20 --w-identity 1 --w-expression 0 --w-pose 2 --w-label 40 --w-cycle 0 \
    --w-equivariance 0 --grad-clip 0 --ema 0.99 --sample-every 0 --save-every 100
train train_dsid --out "$runs/dsid" --name starter --init "$runs/dsid-encoders/dsid.safetensors" --freeze \
    --synthetic "$runs/faces" --steps 1500 --batch-size 16 --generated 16 --augment 0 --warmup 20 --w-identity 0 \
    --w-expression 0 --w-pose 0 --w-label 0 --w-cycle 0 --w-equivariance 0 --w-pair 0 --w-floor 0 --w-size 0 \
    --grad-clip 0 --ema 0.99 --sample-every 250 --save-every 100

# The base: its VAE on crops, then U-Net and text encoder on its latents.
train train_starter --part vae --out "$runs/vae" --synthetic "$runs/faces" --steps 2000 --batch-size 16 --crop 64 \
    --lr 5e-3 --warmup 20 --ema 0.99 --grad-clip 0 --sample-every 250 --save-every 250
train train_starter --part text2image --out "$runs/text2image" --synthetic "$runs/faces" \
    --vae "$runs/vae/starter-base.safetensors" --steps 1500 --batch-size 64 --lr 2e-3 --warmup 30 --ema 0.99 \
    --grad-clip 0 --sample-every 250 --save-every 100

train train_meaf --out "$runs/meaf" --name starter --dsid "$runs/dsid-encoders/dsid.safetensors" \
    --base "$runs/text2image/starter-base.safetensors" --synthetic "$runs/faces" --steps 1500 --batch-size 64 \
    --expression-width 128 --pose-width 64 --lr 2e-3 --warmup 30 --ema 0.99 --grad-clip 0 --save-every 100

cp "$runs/dsid/dsid.safetensors" weights/starter-dsid.safetensors
cp "$runs/text2image/starter-base.safetensors" weights/starter-base.safetensors
cp "$runs/meaf/meaf.safetensors" weights/starter-meaf.safetensors
$python -m deepexpo_models.evaluation.judges --out weights/judge.safetensors --synthetic "$runs/faces" --minutes 20 --threads 2
$python -m deepexpo_models.evaluation.run --out "$runs/evaluation"
