#!/bin/sh
# curve.sh - is the curve of mean score against KL on stories260K at or above the reference's?
#
#     tests/bench/curve.sh [--scale X] [--seeds '0 1 2'] [--work DIR]
#
# Samples, trains and steers as the reference did (reference.json beside the model), once for each seed, and prints one table of the
# mean; exits 0 when no point is below and one strength reaches best-of-16 (tests/bench/compare_curve.c).  With a scale of -1 the
# reward is turned round and there is no reference: exits 0 when the mean of the original scores falls as beta rises.  Some 5
# minutes for each seed on two cores; what DIR holds is not computed again.
set -eu
cd "$(dirname "$0")/../.."

data=${VAS_TEST_DATA:-../shared/data}
BUILD=${BUILD:-build}
BIN=${BIN:-bin}
export BIN
scale=1 seeds='0 1 2' work=
while [ $# -gt 0 ]; do
    case $1 in
    --scale | --seeds | --work) [ $# -ge 2 ] || { echo "curve: option \"$1\" needs an argument" >&2; exit 64; } ;;
    *) echo "curve: usage: tests/bench/curve.sh [--scale X] [--seeds LIST] [--work DIR]" >&2; exit 64 ;;
    esac
    case $1 in
    --scale) scale=$2 ;;
    --seeds) seeds=$2 ;;
    --work) work=$2 ;;
    esac
    shift 2
done
reference=$data/stories260K/reference.json
if [ "$scale" = 1 ]; then
    work=${work:-$BUILD/curve}
else
    work=${work:-$BUILD/curve-scaled} reference=
fi
if [ ! -f "$data/stories260K/stories260K.gguf" ]; then
    echo "skip curve: $data is not here"
    exit 0
fi

make -s BUILD="$BUILD" BIN="$BIN" all "$BUILD/tests/bench/compare_curve" >&2
for seed in $seeds; do
    run=$work/seed-$seed
    mkdir -p "$run"
    pipelines/align.sh --model "$data/stories260K/stories260K.gguf" --prompts "$data/stories260K/prompts.jsonl" \
        --lexicon "$data/vader/vader_lexicon.txt" --reward vader --scale "$scale" --seed "$seed" --work "$run" \
        --samples 8 --eval-samples 8 --base-samples 64 --max-new-tokens 96 --betas '1 2 3 5 8 12 20 40 80' \
        --epochs 3 --batch 32 --lr 1e-3 --schedule constant --refresh 2 --lambda 0.95 >"$run/report.text"
    "$BIN/report" --db "$run/store.db" --json >"$run/report.json"
    set -- "$@" "$run/report.json"
done
"$BUILD/tests/bench/compare_curve" --scale "$scale" ${reference:+--reference "$reference"} "$@"
