#!/bin/sh
# training.sh - training of a value model beside PyTorch, on the same weights, batches, threads and minutes: positions a second,
# and both losses.
#
#     tests/bench/training.sh [--shape 512,8,8,8,1376,32000] [--lengths '8x256'] [--lora RANK] [--products float32]
#                             [--threads 2] [--pairs 5] [--rounds 3] [--work build/bench] [--figures FILE]
#
# --shape: tinyllama, or C,L,NH,NKV,F,V.  --lengths: each an NxT, or a file of numbers (lengths.sh), of which 8 after 8 make a
# batch; PyTorch pads it.  --products: unless told, float32 and, where the processor has them, bf16.  PyTorch is that of
# $VAS_PYTHON (default python3).  Ours and theirs take turns.
#
# Prints a table (table.awk) with the share of what multiplying allows; of further lengths, how many times the first ones' ratio
# theirs is; and the losses of the last pair, step by step.  --figures: adds the figures to this file and prints none.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
shape=512,8,8,8,1376,32000 lengths=8x256 lora= products= threads=2 pairs=5 rounds=3 work=$BUILD/bench
bench_begin 'shape lengths lora products threads pairs rounds' "$@"
products=${products:-$("$BUILD/tests/bench/bench_train" -p)}
model=$work/train-$shape.gguf weights=$work/train-$shape-lora${lora:-0}
[ -f "$model" ] || "$BUILD/tests/bench/make_gguf" "$shape" BF16 "$model"
mkdir -p "$weights"

ours() {  # ours PRODUCTS LENGTHS [OPTION...]
    [ "$1" = bf16 ] && flag=-b || flag=
    run=$2
    shift 2
    "$BUILD/tests/bench/bench_train" -t "$threads" $flag ${lora:+-l "$lora"} "$@" "$model" "$run"
}

theirs() {  # theirs PRODUCTS LENGTHS
    "$python" tests/bench/peer_torch_train.py "$shape" "$2" "$threads" "$rounds" "$1" "$weights" $lora
}

peer=
if has_python torch; then
    peer=1
    set -- $lengths
    ours float32 "$1" -r 1 -w "$weights" >/dev/null
fi
pair=0
while [ $pair -lt "$pairs" ]; do
    pair=$((pair + 1))
    echo "training.sh: pair $pair of $pairs" >&2
    : >"$work/training.pair"
    for run in $lengths; do
        for product in $products; do
            ours $product "$run" -r "$rounds" | sed "s|^|$run $product ours |" >>"$work/training.pair"
            [ -z "$peer" ] || theirs $product "$run" | sed "s|^|$run $product torch |" >>"$work/training.pair"
        done
    done
    awk -v OFS='\t' -v pair=$pair -v lora="${lora:+, LoRA}" '
        { what = $1; sub(/.*\//, "", what); what = "training " what lora ", " }
        $3 == "ours" { print pair, what $2, "ours", $4; print pair, what $2, "limit", $5 }
        $3 == "torch" { print pair, what $2, "PyTorch " $2, $4; if ($2 == "float32") float32[what] = $4 }
        $3 == "torch" && $2 == "bf16" && what in float32 { print pair, what $2, "PyTorch float32", float32[what] }
        ' "$work/training.pair" >>"$out"
done
bench_table
[ -z "$figures" ] && [ -n "$peer" ] || exit 0
awk -F '\t' '
    { figure[$1, $2, $3 == "ours"] = $4 }
    $3 == "PyTorch float32" && $2 ~ /float32$/ || $3 == "PyTorch bf16" {
        ratio = figure[$1, $2, 1] / $4
        kind = $2; sub(/.*, /, "", kind)
        if (!(kind in first))
            first[kind] = $2
        if ($2 != first[kind])
            printf "pair %d: %s gains %.2f times what %s does\n", $1, $2, ratio / of[$1, kind], first[kind]
        else
            of[$1, kind] = ratio
    }' "$out"
awk '
    $3 == "ours" { for (i = 6; i <= NF; i++) loss[$1, $2, i - 5] = $i }
    $3 == "torch" {
        printf "\nlosses of %s, %s\n%4s %12s %12s %12s\n", $1, $2, "step", "ours", "PyTorch", "difference"
        largest = 0
        for (i = 5; i <= NF; i++) {
            difference = loss[$1, $2, i - 4] / $i - 1
            largest = difference * difference > largest * largest ? difference : largest
            printf "%4d %12.8g %12.8g %12.1e\n", i - 4, loss[$1, $2, i - 4], $i, difference
        }
        printf "largest relative difference: %.1e\n", largest
    }' "$work/training.pair"
