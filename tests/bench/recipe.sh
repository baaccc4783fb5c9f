#!/bin/sh
# recipe.sh - the shapes of the method's recipe on one machine: Llama-2-7B in 4 bits steered by TinyLlama-1.1B in 8 bits, and
# adapters of rank 16 trained on TinyLlama over NF4 weights, in bf16 where the processor has such products.  Tokens a second, and
# the most memory that each had resident.
#
#     tests/bench/recipe.sh [--threads 2] [--work build/bench]
#
# Weights are random: some 7 GiB of files, made once.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
threads=2 work=$BUILD/bench
bench_begin 'threads' "$@"

model() {  # SHAPE TYPE [value]: $file
    file=$work/$1-$2${3:+-$3}.gguf
    [ -f "$file" ] || "$BUILD/tests/bench/make_gguf" "$1" "$2" "$file" ${3:+"$3"}
}
[ -f "$work/tokenizer/tokenizer.json" ] || awk -v count=600 -v seed=1 -f pipelines/stories.awk |
    tokenize -q --train-vocab 512 --field text -o "$work/tokenizer" -
model llama2-7b Q4_0
base=$file
model tinyllama Q8_0 value
"$BUILD/tests/bench/bench_engine" -m "$base" --tokenizer "$work/tokenizer" --value "$file" \
    -t "$threads" sample:1:32:16 steer:20:1:32:16
model tinyllama BF16
products=$("$BUILD/tests/bench/bench_train" -p)
case $products in *bf16) flag=-b ;; *) flag= ;; esac
"$BUILD/tests/bench/bench_train" -t "$threads" -r 1 -l 16 -q nf4 $flag -a "$file" 8x256 |
    sed "s/ .*//; s/^/training, ${products#* } products: /"
