#!/bin/sh
# bench.sh - how fast vas is: sampling, steering, scaling, small models and training beside their peers, in one table.
#
#     tests/bench/bench.sh [--rounds 3] [--json FILE]
#
# Runs sampling.sh, steering.sh, trunk.sh, scaling.sh, small.sh and training.sh, of each so many rounds or pairs; they say what is
# measured, and where peers are found.  A round takes some 20 minutes on two cores.
set -eu
cd "$(dirname "$0")/../.."

rounds=3 json=
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || { echo "bench.sh: option \"$1\" needs an argument" >&2; exit 64; }
    case $1 in
    --rounds) rounds=$2 ;;
    --json) json=$2 ;;
    *) echo "bench.sh: unknown option \"$1\"" >&2; exit 64 ;;
    esac
    shift 2
done
work=${BUILD:-build}/bench
mkdir -p "$work"
figures=$work/figures
: >"$figures"
tests/bench/sampling.sh --pairs "$rounds" --rounds 2 --figures "$figures"
tests/bench/steering.sh --rounds "$rounds" --figures "$figures"
tests/bench/trunk.sh --rounds "$rounds" --figures "$figures"
tests/bench/scaling.sh --rounds "$rounds" --figures "$figures"
tests/bench/small.sh --rounds "$rounds" --figures "$figures"
tests/bench/training.sh --pairs "$rounds" --rounds 1 --figures "$figures"
awk -v json="$json" -f tests/bench/table.awk "$figures"
