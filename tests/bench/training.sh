#!/bin/sh
# training.sh - training of a value model beside PyTorch, on the same shape, threads and minutes: positions a second.
#
#     tests/bench/training.sh [--shape 512,8,8,8,1376,32000] [--lengths 8x256] [--lora RANK] [--threads 2] [--pairs 3] [--rounds 3] [--work build/bench]
#                           [--figures FILE]
#
# --shape: tinyllama, or C,L,NH,NKV,F,V.  --lengths: NxT, or a file of numbers, of which 32 after 32 make a batch; PyTorch pads it.  PyTorch
# is that of $VAS_PYTHON (default python3).  Ours and theirs take turns.
#
# Prints a table (table.awk).  --figures: adds the figures to this file and prints none.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
shape=512,8,8,8,1376,32000 lengths=8x256 lora= threads=2 pairs=3 rounds=3 work=$BUILD/bench
bench_begin 'shape lengths lora threads pairs rounds' "$@"
model=$work/train-$shape.gguf
[ -f "$model" ] || "$BUILD/tests/bench/make_gguf" "$shape" BF16 "$model"

peer=
if has_python torch; then
    peer=1
fi
pair=0
while [ $pair -lt "$pairs" ]; do
    pair=$((pair + 1))
    echo "training.sh: pair $pair of $pairs" >&2
    : >"$work/training.pair"
    for products in float32 bf16; do
        [ $products = bf16 ] && flag=-b || flag=
        "$BUILD/tests/bench/bench_train" -t "$threads" -r "$rounds" $flag ${lora:+-l "$lora"} "$model" "$lengths" |
            sed "s/^/ours $products /" >>"$work/training.pair"
        [ -z "$peer" ] || "$python" tests/bench/peer_torch_train.py "$shape" "$lengths" "$threads" "$rounds" $products $lora |
            sed "s/^/torch $products /" >>"$work/training.pair"
    done
    awk -v OFS='\t' -v pair=$pair -v run="$lengths${lora:+, LoRA}" '
        $1 == "ours" { print pair, "training " run ", " $2, "ours", $3 }
        $1 == "torch" { for (i = 1; i <= 2; i++) print pair, "training " run ", " (i == 1 ? "float32" : "bf16"), "PyTorch " $2, $3 }
        ' "$work/training.pair" >>"$out"
done
bench_table
