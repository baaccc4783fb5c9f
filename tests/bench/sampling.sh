#!/bin/sh
# sampling.sh - sampling beside llama.cpp, on the same weights, threads and minutes.
#
#     tests/bench/sampling.sh [--types 'F16 BF16 Q8_0 Q4_0'] [--cases 'g1 g8 g20 g32 p512 f8'] [--threads 2] [--pairs 5] [--rounds 3]
#                             [--shape tinyllama] [--work build/bench] [--figures FILE]
#
# The cases are bench_model.c's: gB one more token of B sequences, pN a prompt of N tokens, fB one more token of B rollouts of one
# prompt.  llama.cpp runs through llama-cpp-python where $VAS_PYTHON (default python3) has it.  Ours and theirs take turns.  The limit is
# what reading every weight once a token would allow, at the rate at which memory was read meanwhile.
#
# Prints a table (table.awk).  --figures: adds the figures to this file and prints none.
set -eu
cd "$(dirname "$0")/../.."

BUILD=${BUILD:-build}
BIN=${BIN:-$PWD/bin}
python=${VAS_PYTHON:-python3}
types='F16 BF16 Q8_0 Q4_0' cases='g1 g8 g20 g32 p512 f8' threads=2 pairs=5 rounds=3 shape=tinyllama work=$BUILD/bench figures=
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || { echo "sampling.sh: option \"$1\" needs an argument" >&2; exit 64; }
    case $1 in
    --types) types=$2 ;;
    --cases) cases=$2 ;;
    --threads) threads=$2 ;;
    --pairs) pairs=$2 ;;
    --rounds) rounds=$2 ;;
    --shape) shape=$2 ;;
    --work) work=$2 ;;
    --figures) figures=$2 ;;
    *) echo "sampling.sh: unknown option \"$1\"" >&2; exit 64 ;;
    esac
    shift 2
done
make -s BUILD="$BUILD" BIN="$BIN" bench-programs >&2
mkdir -p "$work"
if "$python" -c 'import llama_cpp' 2>/dev/null; then
    peer=1
else
    peer=
    echo "sampling.sh: $python has no llama_cpp: nothing to compare with" >&2
fi

out=${figures:-$work/sampling.figures}
[ -n "$figures" ] || : >"$out"
for type in $types; do
    model=$work/$shape-$type.gguf
    [ -f "$model" ] || "$BUILD/tests/bench/make_gguf" "$shape" "$type" "$model"
    bytes=$(wc -c <"$model")
    pair=0
    while [ $pair -lt "$pairs" ]; do
        pair=$((pair + 1))
        echo "sampling.sh: $type, pair $pair of $pairs" >&2
        "$BUILD/tests/bench/bench_model" -t "$threads" -r "$rounds" "$model" $cases read |
            awk -v OFS='\t' -v pair=$pair -v type="$type" -v bytes="$bytes" '
                $1 == "read" { print pair, type " g1", "limit", $3 / bytes; next }
                $1 != "load_s" { print pair, type " " $1, "ours", $3 }' >>"$out"
        [ -z "$peer" ] || "$python" tests/bench/peer_llama_cpp.py "$model" "$threads" "$rounds" $cases |
            awk -v OFS='\t' -v pair=$pair -v type="$type" '{ print pair, type " " $1, "llama.cpp", $2 }' >>"$out"
    done
done
[ -n "$figures" ] || awk -f tests/bench/table.awk "$out"
