#!/usr/bin/env bash
# How the starter on rendered heads is made: its VAE, the base with factor tokens, a MEAF that reads photo-dsid's codes, the figures.
#   bash weights/starter_heads.sh [RUNS] [HEADS.NPZ]
# RUNS/heads/train and RUNS/heads/test hold rendered heads, as photo.sh leaves them; HEADS.NPZ (docs/heads.md) renders them first.
# Every step can be stopped and started again; it goes on where it was. CPU is enough; a GPU is used where there is one.
# VAE_STEPS, DECODER_STEPS, BASE_STEPS, MEAF_STEPS, JUDGE_STEPS, SIZE_OF_BATCH, SAMPLE_EVERY, COUNT (heads of the figures), DRAW_STEPS,
# SHARDS, WORKERS and THREADS in the environment make it shorter or longer; PRECISION=bf16 is faster where the hardware has it.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs} model=${2:-}
python=${PYTHON:-python3} batch=${SIZE_OF_BATCH:-48} reader=weights/photo-dsid.safetensors every=${SAMPLE_EVERY:-500}
train() {
    $python -m "deepexpo_models.training.$1" --heads "$runs/heads/train" --threads "${THREADS:-1}" --warmup 20 --ema 0.99 \
        --grad-clip 0 --save-every 200 --sample-every "$every" "${@:2}"
}
measure() {
    $python -m "deepexpo_models.evaluation.$1" --heads "$runs/heads/test" --reader "$reader" --out "$runs/starter-figures" \
        --count "${COUNT:-256}" "${@:2}"
}

if [ -n "$model" ]; then
    heads() { $python -m deepexpo_models.data.heads.generate --model "$model" "$@"; }
    heads --out "$runs/heads/test" --split test --seed 1 --shards 8
    heads --out "$runs/heads/train" --shards "${SHARDS:-240}" --workers "${WORKERS:-1}"
fi

train train_starter --part vae --out "$runs/heads-vae" --latent-channels 16 --steps "${VAE_STEPS:-1500}" --batch-size 16 --crop 64 \
    --lr 5e-3
# on whole pictures: normalisations and attention of a decoder that saw crops alone cost it 3 dB there
vae=$runs/heads-decoder/starter-base.safetensors
train train_starter --part decoder --out "$runs/heads-decoder" --vae "$runs/heads-vae/starter-base.safetensors" \
    --steps "${DECODER_STEPS:-1500}" --batch-size 6 --lr 3e-3
measure round_trip --base weights/starter-base.safetensors "$vae"

# U-Net, text encoder and factor tokens; its gate, before a MEAF is begun: the MEAF steers what the base can draw
base=$runs/heads-base/starter-base.safetensors
train train_starter --part text2image --out "$runs/heads-base" --vae "$vae" --steps "${BASE_STEPS:-6000}" --batch-size "$batch" \
    --precision "${PRECISION:-fp32}" --lr 2e-3 --snr-gamma 0 --face-weight 2 --region-weight 4 --factor-drop 0.3 \
    --calm-share 0.6 --test "$runs/heads/test" --reader "$reader"
measure base_gate --base "$base" --factors "$runs/heads-base/factors.safetensors" --steps "${DRAW_STEPS:-25}"

train train_meaf --out "$runs/heads-meaf" --name heads --dsid "$reader" --base "$base" --steps "${MEAF_STEPS:-3000}" \
    --precision "${PRECISION:-fp32}" --batch-size "$batch" --lr 3e-3 --snr-gamma 0 --expression-width 128 --pose-width 64
meaf=$runs/heads-meaf/meaf.safetensors

train train_judge --out "$runs/heads-judge" --test "$runs/heads/test" --steps "${JUDGE_STEPS:-1500}" --lr 5e-3
$python -m deepexpo_models.evaluation.run --out "$runs/starter-figures/tables" --heads "$runs/heads/test" \
    --judge "$runs/heads-judge/judge.safetensors" --base "$base" --meaf "$meaf" --dsid "$reader" --cfg 5
echo "made $base and $meaf; copy them to weights/heads-base.safetensors and heads-meaf.safetensors"
