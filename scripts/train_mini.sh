#!/usr/bin/env bash
# Trains mini for so many minutes on the GPUs there are; people are made on the CPUs all the while.
#
#   scripts/train_mini.sh run 26 assets/mini     # on from a variant's folder (legs it lacks start from nothing)
#   scripts/train_mini.sh run 26                 # on from checkpoints/, or everything from nothing
#   scripts/train_mini.sh pack DIR [LEG ...]     # averaged weights as float16, in pieces of 15 MiB; any time
#
# The environment can set
#   FIRST_SEED, PEOPLE, WORKERS, GENERATE (more options of the generator), FIRST_SHARDS (of 32 people, before training)
#   SURFACE   people with Stage 2 targets; 0 trains Stage 1 alone
#   WAY       options of the joint leg; else the quickest are found while the first people are made
#   BATCH (of every GPU), RATE      of the joint leg
#   JOINT     GPUs of the joint leg, as 0,1,2; else all but the last, which the other legs take, or the only one
#   PART, DECODER, SLAT, FLOW, FIT  minutes (0 leaves out) of: autoencoders and image encoder, where they are not there yet; the image
#             decoder, once more; the slat autoencoder and then the slat flow, beside the joint leg; the structure
#             decoder on sampled structures, at the end
set -euo pipefail
cd "$(dirname "$0")/.."
command=${1:?run or pack}
data=training-data/people out=checkpoints
if [ "$command" = pack ]; then
  exec python3 scripts/pack_checkpoints.py $out "${2:?folder}" "${@:3}"
elif [ "$command" != run ]; then
  echo "run or pack, not $command" >&2
  exit 2
fi

minutes=${2:?minutes}
started=$(date +%s)
first_seed=${FIRST_SEED:-0} people=${PEOPLE:-60000} surface=${SURFACE:-2560}
workers=${WORKERS:-$(($(nproc) - 3))} first=${FIRST_SHARDS:-$workers}
part=${PART:-1.7} decoder=${DECODER:-0} slat_minutes=${SLAT:-6} flow_minutes=${FLOW:-9} fit=${FIT:-1.8}
batch=${BATCH:-64} rate=${RATE:-8e-4}
second_gpu=$(($(nvidia-smi -L | wc -l) - 1))
joint=${JOINT:-$(seq -s , 0 $((second_gpu > 0 ? second_gpu - 1 : 0)))}
mkdir -p $out/logs $data
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4
export GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo # all processes are on this machine, whose name may lead nowhere
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

say() { echo "$(($(date +%s) - started)) s: $*"; }
at() { python3 -c "print(int($started + 60 * ($minutes - $1)))"; } # Unix time so many minutes before the end
leg() { # GPUs, module, options
  local gpus=$1 name=$2 start=()
  shift 2
  [[ $gpus != *,* ]] || start=(torch.distributed.run --master-addr 127.0.0.1 --nproc-per-node gpu -m)
  say "$name on $gpus $*"
  CUDA_VISIBLE_DEVICES=$gpus python3 -m "${start[@]}" "synchuman.training.$name" --people $data --out $out "$@" \
    >>"$out/logs/$name.txt" 2>&1 || { say "$name failed"; tail -n 25 "$out/logs/$name.txt"; return 1; }
  say "$name done"
}
has() { [ -e "$out/$1/state.json" ]; }

make="python3 -m synchuman.training.people.generate --out $data --workers $workers ${GENERATE:-}"
OMP_NUM_THREADS=1 bash -c "$make --count $surface --first-seed $first_seed --surface && \
  $make --count $((people - surface)) --first-seed $((first_seed + surface))" >$out/logs/people.txt 2>&1 &
if [ -n "${WAY:-}" ]; then
  echo "$WAY" >$out/logs/way
else # the GPU is free until there are people
  PYTHONPATH=$PWD:${PYTHONPATH:-} python3 bench/train_joint.py --batch "$batch" --best $out/logs/way \
    >$out/logs/ways.txt 2>&1 &
fi
until [ "$(find $data -name 'people-*.npz' | wc -l)" -ge "$first" ]; do sleep 1; done
say "first people"
[ -z "${3:-}" ] || python3 -m synchuman.training.shipped --variant "$3" --out $out

parts=()
has structure-autoencoder || { leg $second_gpu train_structure_autoencoder --batch 48 --minutes "$part" & parts+=($!); }
if ! has image-autoencoder; then
  leg 0 train_image_autoencoder --batch 16 --minutes "$part" --learning-rate 5e-4 & parts+=($!)
elif [ "$decoder" != 0 ]; then
  leg 0 train_image_decoder --batch 16 --minutes "$decoder" --learning-rate 3e-4 & parts+=($!)
fi
has image-encoder || { leg $second_gpu train_image_encoder --batch 48 --minutes "$part" --learning-rate 5e-4 & parts+=($!); }
for pid in "${parts[@]}"; do wait "$pid"; done

{
  while :; do
    CUDA_VISIBLE_DEVICES=$second_gpu python3 -m synchuman.training.latents --people $data --out $out || sleep 30
    sleep 20
  done
} >$out/logs/latents.txt 2>&1 &
[ "$surface" = 0 ] || {
  leg $second_gpu train_slat_autoencoder --minutes "$slat_minutes" --limit "$surface" --learning-rate 5e-4 &&
    leg $second_gpu train_slat_flow --minutes "$flow_minutes" --deadline "$(at "$fit")" --limit "$surface" --learning-rate 5e-4
} &
slat=$!
# shellcheck disable=SC2046 # the options of the quickest way are words
leg "$joint" train_joint --batch "$batch" --muon 1 --learning-rate "$rate" --minutes 600 --deadline "$(at "$fit")" $(cat $out/logs/way || true)
[ "$fit" = 0 ] || leg 0 train_structure_decoder --batch 16 --limit 1024 --minutes 600 --deadline "$(at 0)" --learning-rate 3e-4
wait $slat
[ -n "${WAY:-}" ] || cat $out/logs/ways.txt
for log in "$out"/*/log.jsonl; do echo "$log: $(tail -n 1 "$log")"; done
