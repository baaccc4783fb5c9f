#!/bin/sh
# bench.sh - how fast vas is: sampling, steering, scaling, small models and training beside their peers, in one table.
#
#     tests/bench/bench.sh [--json FILE]
#
# Runs sampling.sh, steering.sh, trunk.sh, scaling.sh, small.sh and training.sh, each with its defaults; they say what is measured,
# and where peers are found.
set -eu
cd "$(dirname "$0")/../.."

json=
case $# in
0) ;;
2) [ "$1" = --json ] || { echo "bench.sh: unknown option \"$1\"" >&2; exit 64; }
    json=$2 ;;
*) echo "bench.sh: usage: bench.sh [--json FILE]" >&2; exit 64 ;;
esac
work=${BUILD:-build}/bench
mkdir -p "$work"
: >"$work/figures"
for part in sampling steering trunk scaling small training; do
    tests/bench/$part.sh --figures "$work/figures"
done
awk -v json="$json" -f tests/bench/table.awk "$work/figures"
