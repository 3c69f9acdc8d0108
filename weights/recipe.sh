#!/usr/bin/env bash
# How everything in this folder is made, from nothing: rendered heads, the DSID that reads photographs, the judge, the text-to-image
# base, its MEAF, and the figures. (head.safetensors is built by deepexpo_models.head.build.)
#   bash weights/recipe.sh [RUNS] [HEADS.NPZ]
# HEADS.NPZ, the head model (docs/heads.md says how it is built), renders the heads into RUNS/heads/train and RUNS/heads/test; without
# it they are taken as they lie there. Every step can be stopped and started again; it goes on where it was. CPU is enough; a GPU is used
# where there is one. In the environment:
#   DSID           a DSID file, which is taken instead of training one
#   LANDMARKER     MediaPipe's face_landmarker.task; the DSID learns what it reads in the heads too
#   RECOGNISER     dlib, or insightface with INSIGHTFACE, its folder; the DSID learns who looks like whom to it
#   CLIPS          folder of clips and stills: with LANDMARKER a table on real faces
#   SHARDS, TEST_SHARDS                           of 256 heads, for training (240) and of held-out people (8)
#   JUDGED_SHARDS                                 of the former, that the landmarker is asked about (0: all)
#   STEPS, GENERATOR_STEPS, VAE_STEPS,            of the DSID (6000; its identity half of them), its generator (1300), VAE (1500), its
#   DECODER_STEPS, BASE_STEPS, MEAF_STEPS,        decoder (1500), base (6000), MEAF (3000), judge (1500)
#   JUDGE_STEPS
#   SIZE_OF_BATCH                                 of the DSID (32, 40), its generator (16), base and MEAF (48)
#   SAMPLE_EVERY                                  steps between sample pictures and measurements (500; of the DSID 200); 0: none
#   COUNT, DRAW_STEPS                             heads of the base's figures (256), and the steps that draw one (25)
#   PRECISION                                     of base and MEAF (fp32); bf16 is faster where the hardware has it
#   WORKERS, THREADS, PYTHON                      processes that render and ask (1), threads of a training (1), the Python (python3)
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs} model=${2:-}
python=${PYTHON:-python3} steps=${STEPS:-6000} every=${SAMPLE_EVERY:-500} workers=${WORKERS:-1} precision=${PRECISION:-fp32}
train=$runs/heads/train test=$runs/heads/test batch=${SIZE_OF_BATCH:-48}
run() { $python -m "deepexpo_models.$@"; }
read_heads() { # of the DSID
    run training.train_heads --heads "$train" --test "$test" --threads "${THREADS:-1}" --sample-every "${SAMPLE_EVERY:-200}" "$@"
}
learn() { # everything else
    run "training.$1" --heads "$train" --threads "${THREADS:-1}" --warmup 20 --ema 0.99 --grad-clip 0 --save-every 200 \
        --sample-every "$every" "${@:2}"
}
measure() {
    run "evaluation.$1" --heads "$test" --reader "$dsid" --out "$runs/figures" --count "${COUNT:-256}" "${@:2}"
}

if [ -n "$model" ]; then
    run data.heads.generate --model "$model" --out "$test" --split test --seed 1 --shards "${TEST_SHARDS:-8}"
    run data.heads.generate --model "$model" --out "$train" --shards "${SHARDS:-240}" --workers "$workers"
fi

# The DSID: the semantic encoder, then the identity encoder beside it, read-outs in the landmarker's words, what a mirror image's
# codes say, and the generator.
dsid=${DSID:-}
if [ -z "$dsid" ]; then
    [ -z "${LANDMARKER:-}" ] ||
        run data.heads.judged --heads "$train" --landmarker "$LANDMARKER" --shards "${JUDGED_SHARDS:-0}" --workers "$workers"
    [ -z "${RECOGNISER:-}" ] ||
        run training.ask_recogniser --heads "$train" --recogniser "$RECOGNISER" \
            ${INSIGHTFACE:+--insightface-path "$INSIGHTFACE"} --every 2 --workers "$workers"
    read_heads --part semantics --out "$runs/photo-semantics" --steps "$steps" --batch-size "${SIZE_OF_BATCH:-32}" \
        --w-gaze 2 --w-judged 4 --w-units 2 --w-rotation 3
    read_heads --part identity --out "$runs/photo" --init "$runs/photo-semantics/dsid.safetensors" --steps $((steps / 2)) \
        --batch-size "${SIZE_OF_BATCH:-40}" --lr 4e-3 --ema 0.99
    dsid=$runs/photo/dsid.safetensors
    if [ -n "${LANDMARKER:-}" ]; then
        run training.fit_readout --dsid "$dsid" --heads "$train" --out "$runs/photo/fitted.safetensors"
        dsid=$runs/photo/fitted.safetensors
    fi
    run training.fit_averaging --dsid "$dsid" --heads "$train" --out "$runs/photo/averaging.safetensors"
    dsid=$runs/photo/averaging.safetensors
    # a generator on these encoders, which stay as they are; heads before grey, for no code holds a background
    run training.train_dsid --out "$runs/generator" --name photo --config photo-generator --init "$dsid" --freeze --plain \
        --heads "$train" --test "$test" --steps "${GENERATOR_STEPS:-1300}" --batch-size "${SIZE_OF_BATCH:-16}" --generated 16 \
        --augment 0 --lr 4e-3 --warmup 20 --ema 0.99 --grad-clip 0 --w-cycle 0 --perceptual-from "$dsid" --w-perceptual 0.5 \
        --sample-every "${SAMPLE_EVERY:-200}" --threads "${THREADS:-1}"
    dsid=$runs/generator/dsid.safetensors
fi
run evaluation.rendered_heads --heads "$test" --dsid "$dsid" --out "$runs/figures"
[ -z "${CLIPS:-}" ] ||
    run evaluation.real_faces --clips "$CLIPS" --landmarker "${LANDMARKER:?judges CLIPS; name it too}" --dsid "$dsid" --out "$runs/figures"

judge=$runs/judge/judge.safetensors
learn train_judge --out "$runs/judge" --test "$test" --steps "${JUDGE_STEPS:-1500}" --lr 5e-3

# The base: its VAE on crops; the decoder once more, on whole pictures: normalisations and attention of a decoder that saw crops alone
# cost it 3 dB there.
vae=$runs/decoder/starter-base.safetensors
learn train_starter --part vae --out "$runs/vae" --steps "${VAE_STEPS:-1500}" --batch-size 16 --crop 64 --lr 5e-3
learn train_starter --part decoder --out "$runs/decoder" --vae "$runs/vae/starter-base.safetensors" \
    --steps "${DECODER_STEPS:-1500}" --batch-size 6 --lr 3e-3
measure round_trip --base "$vae" --judge "$judge"

# U-Net, text encoder and factor tokens; its gate, before a MEAF is begun: the MEAF steers what the base can draw
base=$runs/base/starter-base.safetensors
learn train_starter --part text2image --out "$runs/base" --vae "$vae" --steps "${BASE_STEPS:-6000}" --batch-size "$batch" \
    --precision "$precision" --lr 2e-3 --snr-gamma 0 --face-weight 2 --region-weight 4 --factor-drop 0.3 \
    --calm-share 0.6 --test "$test" --reader "$dsid"
measure base_gate --base "$base" --factors "$runs/base/factors.safetensors" --steps "${DRAW_STEPS:-25}"

meaf=$runs/meaf/meaf.safetensors
learn train_meaf --out "$runs/meaf" --name heads --dsid "$dsid" --base "$base" --steps "${MEAF_STEPS:-3000}" \
    --precision "$precision" --batch-size "$batch" --lr 3e-3 --snr-gamma 0 --expression-width 128 --pose-width 64

run evaluation.run --out "$runs/figures/tables" --heads "$test" --judge "$judge" --base "$base" --meaf "$meaf" --dsid "$dsid"
echo "made $dsid, $judge, $base and $meaf; copy them to weights/photo-dsid.safetensors, judge-heads.safetensors," \
    "heads-base.safetensors and heads-meaf.safetensors, and $runs/base/factors.safetensors to heads-factors.safetensors"
