#!/bin/sh
# train.sh - training of a value model beside PyTorch, on the same shape, threads and minutes: positions a second, and ratios to PyTorch's float32.
#
#     tests/bench/train.sh [--shape 512,8,8,8,1376,32000] [--lengths 8x256] [--lora RANK] [--threads 2] [--pairs 3] [--rounds 3] [--work build/bench]
#
# --shape: tinyllama, or C,L,NH,NKV,F,V.  --lengths: NxT, or a file of numbers, of which 32 after 32 make a batch; PyTorch pads it.  PyTorch
# is that of $VAS_PYTHON (default python3).  Ours and theirs take turns; figures are medians of the pairs.
set -eu
cd "$(dirname "$0")/../.."

BUILD=${BUILD:-build}
BIN=${BIN:-$PWD/bin}
python=${VAS_PYTHON:-python3}
shape=512,8,8,8,1376,32000 lengths=8x256 lora= threads=2 pairs=3 rounds=3 work=$BUILD/bench
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || { echo "train.sh: option \"$1\" needs an argument" >&2; exit 64; }
    case $1 in
    --shape) shape=$2 ;;
    --lengths) lengths=$2 ;;
    --lora) lora=$2 ;;
    --threads) threads=$2 ;;
    --pairs) pairs=$2 ;;
    --rounds) rounds=$2 ;;
    --work) work=$2 ;;
    *) echo "train.sh: unknown option \"$1\"" >&2; exit 64 ;;
    esac
    shift 2
done
make -s BUILD="$BUILD" BIN="$BIN" bench-programs >&2
mkdir -p "$work"
model=$work/train-$shape.gguf
[ -f "$model" ] || "$BUILD/tests/bench/make_gguf" "$shape" BF16 "$model"

pair=0
while [ $pair -lt "$pairs" ]; do
    pair=$((pair + 1))
    echo "train.sh: pair $pair of $pairs" >&2
    for products in float32 bf16; do
        [ $products = bf16 ] && flag=-b || flag=
        "$BUILD/tests/bench/bench_train" -t "$threads" -r "$rounds" $flag ${lora:+-l "$lora"} "$model" "$lengths" | sed "s/^/ours-$products /"
        "$python" tests/bench/peer_torch_train.py "$shape" "$lengths" "$threads" "$rounds" $products $lora | sed "s/^/torch-$products /"
    done
done >"$work/train.figures"

sort -k1,1 -k2,2g "$work/train.figures" | awk '
    { figure[$1, ++count[$1]] = $2 }
    function median(name) { return figure[name, int((count[name] + 1) / 2)] }
    END {
        for (name in count)
            printf "%-14s %9.1f tokens/s  %5.2f x PyTorch float32\n", name, median(name), median(name) / median("torch-float32")
    }' | sort
