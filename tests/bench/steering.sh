#!/bin/sh
# steering.sh - what steering costs one sequence, and how fast it is beside the way of the method's reference in PyTorch.
#
#     tests/bench/steering.sh [--rounds 5] [--threads 2] [--tokens 64] [--candidates 20] [--types 'f32 bf16'] [--values 'same q4_0']
#                             [--work build/vas] [--figures FILE]
#
# A base policy of 512 channels and 8 layers, a value model of 288 and 6, 32000 tokens, random weights: 41.7 M and 6.0 M parameters
# are read for each token.  The value model is of the base policy's type (same), or rounded to another on loading.  Peers are the
# base policy alone and, where $VAS_PYTHON (default python3) has torch, those of tests/bench/peer_torch_vas.py; all run one after
# the other in each round.
#
# Prints a table (table.awk).  --figures: adds the figures to this file and prints none.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
rounds=5 threads=2 tokens=64 candidates=20 types='f32 bf16' values='same q4_0' work=$BUILD/vas
bench_begin 'rounds threads tokens candidates types values' "$@"

bench_models
peer=
if has_python torch; then
    peer=1
fi

for type in $types; do
    case $type in f32) quant= ;; *) quant="--quant $type" ;; esac
    case $type in f32) torch=float32 ;; bf16) torch=bfloat16 ;; *) torch= ;; esac
    round=0
    while [ $round -lt "$rounds" ]; do
        round=$((round + 1))
        echo "steering.sh: $type, round $round of $rounds" >&2
        : >"$work/steering.peer"
        [ -z "$peer" ] || [ -z "$torch" ] || [ "$candidates" != 20 ] ||
            "$python" tests/bench/peer_torch_vas.py "$work/base" "$work/value" "$threads" $torch "$tokens" \
                reference sequential batched >"$work/steering.peer"
        for value in $values; do
            case $value in
            same) what="$type steered, $candidates candidates" value_quant= ;;
            *) what="$type steered by $value, $candidates candidates" value_quant="--value-quant $value" ;;
            esac
            "$BUILD/tests/bench/bench_engine" -m "$work/base" --value "$work/value" $quant $value_quant -t "$threads" \
                "sample:1:32:$tokens" "steer:$candidates:1:32:$tokens" "sample:1:32:$tokens" "steer:$candidates:1:32:$tokens" |
                awk -v OFS='\t' -v round=$round -v what="$what" '
                    { print round, what, $1 ~ /^sample/ ? "the base policy alone" : "ours", $2 }' >>"$out"
            awk -v OFS='\t' -v round=$round -v what="$what" '{ print round, what, "PyTorch, " $1, $2 }' "$work/steering.peer" >>"$out"
        done
    done
done
bench_table
