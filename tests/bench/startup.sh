#!/bin/sh
# startup.sh - what --keep-packed saves: the time that a model takes to open, and the memory of a second worker on the machine.
#
#     tests/bench/startup.sh [--shape tinyllama] [--type BF16] [--threads 2] [--rounds 3] [--tokens 60] [--work build/bench]
#
# Prints, a line for each round: seconds to open without, the first time and later, with the model's files in the page cache; tokens
# a second of one sequence without and with; and MiB of its own that a second worker takes without and with, while another one runs.
# Weights are random, made once.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
shape=tinyllama type=BF16 threads=2 rounds=3 tokens=60 work=$BUILD/bench
bench_begin 'shape type threads rounds tokens' "$@"
model=$work/$shape-$type.gguf
[ -f "$model" ] || "$BUILD/tests/bench/make_gguf" "$shape" "$type" "$model"
[ -f "$work/tokenizer/tokenizer.json" ] || awk -v count=600 -v seed=1 -f pipelines/stories.awk |
    tokenize -q --train-vocab 512 --field text -o "$work/tokenizer" -
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkfifo "$scratch/in"

# run [--keep-packed]: $open seconds, $rate tokens a second
run() {
    decode -v -m "$model" --tokenizer "$work/tokenizer" -t "$threads" --max-new-tokens "$tokens" "$@" 'One day' 2>"$scratch/log" \
        >"$scratch/text"
    open=$(sed -n 's/.* loaded model .* seconds=//p' "$scratch/log")
    rate=$(sed -n 's/.* tokens=\([0-9]*\) .* base_s=\([0-9.]*\) .*/\1 \2/p' "$scratch/log" | awk '{ printf "%.1f", $1 / $2 }')
}

# second [--keep-packed]: $own MiB of a worker that waits for work beside another, with room for one sequence of 256 tokens
second() {
    : >"$scratch/log"
    for worker in 1 2; do
        rollout -v -m "$model" --tokenizer "$work/tokenizer" -t "$threads" --batch 1 --context 256 "$@" \
            <"$scratch/in" >"$scratch/out-$worker" 2>>"$scratch/log" 3>&- &
        eval "worker_$worker=\$!"
        [ $worker = 2 ] || exec 3>"$scratch/in"
        until [ "$(grep -c ' loaded model ' "$scratch/log")" = $worker ]; do
            sleep 0.1
        done
    done
    sleep 1
    own=$(awk '/^Private/ { kib += $2 } END { printf "%d", kib / 1024 }' "/proc/$worker_2/smaps_rollup")
    exec 3>&-
    wait "$worker_1" "$worker_2"
}

cat "$model" >/dev/null
rm -f "$model.packed"
run --keep-packed
first=$open
second
own_without=$own
second --keep-packed
printf 'first open %s s; a second worker takes %s and %s MiB\n' "$first" "$own_without" "$own"
round=0
while [ $round -lt "$rounds" ]; do
    round=$((round + 1))
    run
    open_without=$open rate_without=$rate
    run --keep-packed
    printf 'open %s and %s s, one sequence %s and %s tokens/s\n' "$open_without" "$open" "$rate_without" "$rate"
done
