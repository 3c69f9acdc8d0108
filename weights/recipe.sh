#!/usr/bin/env bash
# How the starter in this folder is made, from nothing: drawn faces, DSID, the text-to-image base, MEAF, the judge, the figures.
# bash weights/recipe.sh [RUNS]   Every step can be stopped and started again; it goes on where it was. CPU is enough.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs}
python=${PYTHON:-python3}
train() { $python -m "deepexpo_models.training.$@"; }

$python -m deepexpo_models.data.draw --out "$runs/faces" --shards 50

# DSID: the encoders from labels and contrasts in two runs, the second with the person's labels and pairs across clips; then
# the generator on the frozen encoders.
encoders=(--name starter --synthetic "$runs/faces" --batch-size 48 --generated 0 --augment 0.5 --warmup 20 --w-identity 1
    --w-expression 0 --w-pose 2 --w-cycle 0 --w-equivariance 0 --grad-clip 0 --ema 0.99 --save-every 100)
train train_dsid --out "$runs/dsid-first" "${encoders[@]}" --steps 1280 --w-label 40 --w-traits 0
train train_dsid --out "$runs/dsid-encoders" "${encoders[@]}" --steps 1800 --w-label 40 --w-traits 3 --same-clip 0.2 \
    --init "$runs/dsid-first/dsid.safetensors"
train train_dsid --out "$runs/dsid" --name starter --init "$runs/dsid-encoders/dsid.safetensors" --freeze \
    --synthetic "$runs/faces" --steps 1000 --batch-size 16 --generated 16 --augment 0 --warmup 20 --w-identity 0 \
    --w-expression 0 --w-pose 0 --w-label 0 --w-traits 0 --w-cycle 0 --w-equivariance 0 --w-pair 0 --w-floor 0 --w-size 0 \
    --grad-clip 0 --ema 0.99 --save-every 100

# The base: its VAE on crops, then U-Net and text encoder on its latents, at the end with more weight on the face.
train train_starter --part vae --out "$runs/vae" --synthetic "$runs/faces" --steps 2000 --batch-size 16 --crop 64 \
    --lr 5e-3 --warmup 20 --ema 0.99 --grad-clip 0 --sample-every 250 --save-every 250
base=(--part text2image --synthetic "$runs/faces" --batch-size 64 --warmup 20 --ema 0.99 --grad-clip 0 --save-every 100)
train train_starter --out "$runs/base-first" "${base[@]}" --vae "$runs/vae/starter-base.safetensors" --steps 1700 --lr 2e-3 \
    --snr-gamma 0 --face-weight 0 --region-weight 0
train train_starter --out "$runs/base" "${base[@]}" --vae "$runs/base-first/starter-base.safetensors" --steps 750 --lr 1.5e-3 \
    --snr-gamma 0 --face-weight 2 --region-weight 4
# and its decoder alone, on whole pictures: 23.3 to 26.7 dB in the shipped file
train train_starter --part decoder --out "$runs/decoder" --vae "$runs/base/starter-base.safetensors" --synthetic "$runs/faces" \
    --steps 500 --batch-size 6 --lr 3e-3 --warmup 20 --ema 0.99 --grad-clip 0 --sample-every 250 --save-every 100

train train_meaf --out "$runs/meaf" --name starter --dsid "$runs/dsid-encoders/dsid.safetensors" \
    --base "$runs/decoder/starter-base.safetensors" --synthetic "$runs/faces" --steps 2500 --batch-size 48 --snr-gamma 0 \
    --expression-width 128 --pose-width 64 --lr 3e-3 --warmup 20 --ema 0.99 --grad-clip 0 --save-every 100

train train_judge --out "$runs/judge" --synthetic "$runs/faces"
cp "$runs/judge/judge.safetensors" weights/judge.safetensors

for part in dsid/dsid decoder/starter-base meaf/meaf; do
    cp "$runs/$part.safetensors" "weights/starter-${part##*[/-]}.safetensors"
done
(cd weights && sha256sum -- *.safetensors > SHA256SUMS)
$python -m deepexpo_models.evaluation.run --out "$runs/evaluation"
