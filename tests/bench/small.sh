#!/bin/sh
# small.sh - one sequence of small models beside llama2.c's run.c: what a token costs beside its arithmetic.
#
#     LLAMA2C=PATH/run.c tests/bench/small.sh [--rounds 5] [--tokens 250] [--threads '1 2'] [--work build/small]
#                                        [--figures FILE]
#
# The models are stories260K, where ../shared/data has it, and the shape of the demo's base policy with random weights.  run.c is
# compiled with -O3 -march=native -fopenmp, and with -Ofast too; without it only our figures are printed.  Whatever is sampled,
# at temperature 1.
#
# Prints a table (table.awk).  --figures: adds the figures to this file and prints none.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
data=../shared/data/stories260K
rounds=5 tokens=250 threads='1 2' work=$BUILD/small
bench_begin 'rounds tokens threads' "$@"
[ -f "$work/demo.bin" ] || "$BUILD/tests/bench/make_llama2c" 96,4,6,3,256,512,512 "$work/demo.bin"
[ -f "$work/tokenizer/tokenizer.json" ] || awk -v count=600 -v seed=1 -f pipelines/stories.awk |
    tokenize -q --train-vocab 512 --field text -o "$work/tokenizer" -
models=demo
[ ! -f "$data/stories260K.bin" ] || models="stories260K demo"
if [ -n "${LLAMA2C:-}" ]; then
    for level in O3 Ofast; do
        ${CC:-gcc} -$level -march=native -fopenmp -w -DLLAMA2C="\"$LLAMA2C\"" -o "$work/llama2c-$level" \
            tests/bench/peer_llama2c.c -lm
    done
else
    echo "small.sh: LLAMA2C does not name llama2.c's run.c: nothing to compare with" >&2
fi

for model in $models; do
    case $model in
    demo) file=$work/demo.bin tokenizer=$work/tokenizer ;;
    *) file=$data/$model.bin tokenizer=$data/tok512.model ;;
    esac
    for t in $threads; do
        what="$model, $t thread$([ "$t" = 1 ] || echo s)"
        round=0
        while [ $round -lt "$rounds" ]; do
            round=$((round + 1))
            "$BUILD/tests/bench/bench_engine" -m "$file" --tokenizer "$tokenizer" -t "$t" "serial:10:1:$tokens" |
                awk -v OFS='\t' -v round=$round -v what="$what" '{ print round, what, "ours", $2 }' >>"$out"
            for level in O3 Ofast; do
                [ ! -x "$work/llama2c-$level" ] || OMP_NUM_THREADS=$t "$work/llama2c-$level" "$file" "$tokens" 3 |
                    awk -v OFS='\t' -v round=$round -v what="$what" -v peer="run.c -$level" '{ print round, what, peer, $1 }' \
                        >>"$out"
            done
        done
    done
done
bench_table
