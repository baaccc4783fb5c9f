#!/bin/sh
# sampling.sh - sampling beside llama.cpp, on the same weights, threads and minutes.
#
#     tests/bench/sampling.sh [--types 'F16 BF16 Q8_0 Q4_0'] [--cases 'g1 g8 g20 g32 p512 f8'] [--threads 2]
#                             [--pairs 5] [--rounds 3] [--shape tinyllama] [--work build/bench] [--figures FILE]
#
# The cases are bench_model.c's: gB one more token of B sequences, pN a prompt of N tokens, fB one more token of B rollouts of one
# prompt.  llama.cpp runs through llama-cpp-python where $VAS_PYTHON (default python3) has it.  Ours and theirs take turns.  The
# limit is what reading every weight once, or multiplying it by each token, would allow, whichever takes longer, at the best rates
# before and after.
#
# Prints a table (table.awk).  --figures: adds the figures to this file and prints none.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
types='F16 BF16 Q8_0 Q4_0' cases='g1 g8 g20 g32 p512 f8' threads=2 pairs=5 rounds=3 shape=tinyllama work=$BUILD/bench
bench_begin 'types cases threads pairs rounds shape' "$@"
peer=
if has_python llama_cpp; then
    peer=1
fi

for type in $types; do
    model=$work/$shape-$type.gguf
    [ -f "$model" ] || "$BUILD/tests/bench/make_gguf" "$shape" "$type" "$model"
    pair=0
    while [ $pair -lt "$pairs" ]; do
        pair=$((pair + 1))
        echo "sampling.sh: $type, pair $pair of $pairs" >&2
        "$BUILD/tests/bench/bench_model" -t "$threads" -r "$rounds" "$model" limits $cases limits |
            awk -v OFS='\t' -v pair=$pair -v type="$type" '
                $1 == "load_s" { next }
                $1 == "limit" { print pair, type " " $2, "limit", $3; next }
                { print pair, type " " $1, "ours", $3 }' >>"$out"
        [ -z "$peer" ] || "$python" tests/bench/peer_llama_cpp.py "$model" "$threads" "$rounds" $cases |
            awk -v OFS='\t' -v pair=$pair -v type="$type" '{ print pair, type " " $1, "llama.cpp", $2 }' >>"$out"
    done
done
bench_table
