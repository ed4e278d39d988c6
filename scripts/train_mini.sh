#!/usr/bin/env bash
# Trains mini from nothing on one or two GPUs: people are made on the CPUs all the while.
#
#   scripts/train_mini.sh first 10    # ten minutes: autoencoders, image encoder, start of both stages' flows
#   scripts/train_mini.sh more 10     # as often as wanted: on from there, with all people made by then
#   scripts/train_mini.sh pack DIR [LEG ...]    # averaged weights as float16, in pieces of 15 MiB (all legs: 75 MB)
#
# Pack after every call: the machine may be gone before the next. The latents of a structure autoencoder mean nothing
# without its decoder, nor the structured latents without theirs, so bring all legs home.
#
# Minutes are those of the whole call. The environment can set WORKERS, PEOPLE, SURFACE (people with Stage 2 targets),
# FIRST_SHARDS (of 32 people, before training starts), PART_MINUTES (of each autoencoder and the encoder), HORIZON
# (minutes of the joint leg over all calls), SLAT_MINUTES (of the slat autoencoder in `more`), BATCH (of the joint leg)
# and GENERATE (more options for the generator).
set -euo pipefail
cd "$(dirname "$0")/.."
phase=${1:?first, more or pack}
started=$(date +%s)
data=training-data/people out=checkpoints
workers=${WORKERS:-$(($(nproc) - 4))} people=${PEOPLE:-60000} surface=${SURFACE:-3072} horizon=${HORIZON:-14}
part=${PART_MINUTES:-2.4} first=${FIRST_SHARDS:-$workers} batch=${BATCH:-64}
gpus=$(nvidia-smi -L | wc -l)
stage2_gpu=$((gpus - 1))
mkdir -p $out/logs
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4

until_end() { # options that stop a leg so many seconds before the end of the call, however long it loads
  echo "--minutes 600 --deadline $((started + $(python3 -c "print(int(60 * $minutes))") - $1))"
}
leg() { # GPU, module, options
  local gpu=$1 name=$2
  shift 2
  CUDA_VISIBLE_DEVICES=$gpu python3 -m "synchuman.training.$name" --people $data --out $out "$@" \
    >>"$out/logs/$name.txt" 2>&1 || { tail -n 25 "$out/logs/$name.txt"; return 1; }
}
wait_for_people() {
  until [ "$(find $data -name 'people-*.npz' 2>/dev/null | wc -l)" -ge "$1" ]; do sleep 1; done
}

case $phase in
first)
  minutes=${2:?minutes}
  make="python3 -m synchuman.training.people.generate --out $data --workers $workers ${GENERATE:-}"
  OMP_NUM_THREADS=1 setsid nohup bash -c "$make --count $surface --surface && \
    $make --first-seed $surface --count $((people - surface))" >$out/logs/people.txt 2>&1 </dev/null &
  wait_for_people $first
  leg $stage2_gpu train_structure_autoencoder --batch 48 --minutes $part &
  structure=$!
  leg 0 train_image_autoencoder --batch 16 --minutes $part --learning-rate 5e-4 &
  images=$!
  half=$(python3 -c "print($part / 2)")
  encode() { leg $stage2_gpu train_image_encoder --batch 48 --minutes "$half" --horizon "$part" --learning-rate 5e-4; }
  { encode && encode; } & # the second half knows twice as many people
  encoder=$!
  wait $structure && wait $images && wait $encoder
  # Encodes what the generator makes, so that the next call need not.
  setsid nohup bash -c "while sleep 15; do CUDA_VISIBLE_DEVICES=$stage2_gpu python3 -m synchuman.training.latents \
    --people $data --out $out; done" >$out/logs/latents.txt 2>&1 </dev/null &
  leg $stage2_gpu train_slat_autoencoder $(until_end 25) --limit "$surface" --learning-rate 5e-4 &
  slat=$!
  leg 0 train_joint --batch $batch --learning-rate 5e-4 --horizon "$horizon" $(until_end 25) &
  joint=$!
  wait $slat && wait $joint
  ;;
more)
  minutes=${2:?minutes}
  share=${SLAT_MINUTES:-2}
  {
    leg $stage2_gpu train_slat_autoencoder --minutes "$share" --limit "$surface" --learning-rate 2e-4 &&
      leg $stage2_gpu train_slat_flow $(until_end 25) --limit "$surface" --learning-rate 5e-4
  } &
  slat=$!
  leg 0 train_joint --batch $batch --learning-rate 5e-4 --horizon "$horizon" $(until_end 25) &
  joint=$!
  wait $slat && wait $joint
  ;;
pack)
  python3 scripts/pack_checkpoints.py $out "${2:?folder}" "${@:3}"
  ;;
*)
  echo "first, more or pack, not $phase" >&2
  exit 2
  ;;
esac
for log in $out/*/log.jsonl; do
  [ -e "$log" ] && echo "$log: $(tail -n 1 "$log")"
done
