#!/bin/sh
# trunk.sh - what two value models cost that are adapters of one model: on one trunk, merged and apart, and one of them alone.
#
#     tests/bench/trunk.sh [--rounds 5] [--threads 2] [--tokens 32] [--candidates 20] [--quant bf16] [--work build/vas]
#                          [--figures FILE]
#
# The base policy is that of steering.sh; the value models adapt one of 1024 channels and 12 layers by rank 16, 32000 tokens, nearly
# random weights: 154 M parameters are read for each token.  The most memory that each run had resident is told on standard error.
#
# Prints a table (table.awk).  --figures: adds the figures to this file and prints none.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
rounds=5 threads=2 tokens=32 candidates=20 quant=bf16 work=$BUILD/vas
bench_begin 'rounds threads tokens candidates quant' "$@"
bench_models
trunk_targets() {
    tokenize -q -m "$work/trunk.config" --format rollouts "$work/scored.jsonl" | value-target -q
}
if [ ! -f "$work/lora-2/model.safetensors" ]; then
    bench_config trunk 1024 2816 12 8
    trunk_targets | train -q -m "$work/trunk.config" --from-scratch --batch 1 --epochs 1 -o "$work/trunk"
    for i in 1 2; do
        trunk_targets | train -q -m "$work/trunk" --lora 16 --seed $i --batch 1 --epochs 1 -o "$work/lora-$i"
    done
fi

# figure WHOSE OPTIONS...
figure() {
    whose=$1
    shift
    echo "trunk.sh: $whose, round $round of $rounds" >&2
    "$BUILD/tests/bench/bench_engine" -m "$work/base" "$@" --quant "$quant" -t "$threads" "steer:$candidates:1:32:$tokens" |
        awk -v OFS='\t' -v round=$round -v whose="$whose" \
            -v what="$quant steered by 2 adapters" '{ print round, what, whose, $2 }' >>"$out"
}
round=0
while [ $round -lt "$rounds" ]; do
    round=$((round + 1))
    figure ours --trunk "$work/trunk" --value "$work/lora-1/adapter" --value "$work/lora-2/adapter"
    figure "merged, apart" --value "$work/lora-1" --value "$work/lora-2"
    figure "one of them" --value "$work/lora-1"
done
bench_table
