#!/bin/sh
# bench.sh - how fast vas is: sampling, steering, scaling, small models and training beside their peers, in one table.
#
#     tests/bench/bench.sh [--rounds 3] [--json FILE] [--work build/bench]
#
# Runs sampling.sh, steering.sh, trunk.sh, scaling.sh, small.sh and training.sh, of each so many rounds or pairs; they say what is
# measured, and where peers are found.  A round takes some 20 minutes on two cores.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
rounds=3 json= work=$BUILD/bench
bench_begin 'rounds json' "$@"
tests/bench/sampling.sh --pairs "$rounds" --rounds 2 --figures "$out"
tests/bench/steering.sh --rounds "$rounds" --figures "$out"
tests/bench/trunk.sh --rounds "$rounds" --figures "$out"
tests/bench/scaling.sh --rounds "$rounds" --figures "$out"
tests/bench/small.sh --rounds "$rounds" --figures "$out"
tests/bench/training.sh --pairs "$rounds" --rounds 1 --figures "$out"
awk -v json="$json" -f tests/bench/table.awk "$out"
