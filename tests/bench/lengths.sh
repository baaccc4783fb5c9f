#!/bin/sh
# lengths.sh - how many tokens the texts of a file have, a number a line, in the order of the file:
# what training.sh takes as --lengths.
#
#     tests/bench/lengths.sh -m MODEL [--field chosen] FILE
#
# -m: whose tokenizer.  FILE: JSON lines, gzipped or not.  "chosen" of HH-RLHF is a dialogue, prompt and response,
# as a value model is trained on it.
set -eu
BIN=${BIN:-$(dirname "$0")/../../bin}
field=chosen model=
while [ $# -gt 1 ]; do
    case $1 in
    -m) model=$2 ;;
    --field) field=$2 ;;
    *) break ;;
    esac
    shift 2
done
[ $# -eq 1 ] && [ -n "$model" ] || { echo "usage: lengths.sh -m MODEL [--field chosen] FILE" >&2; exit 64; }
"$BIN/tokenize" -q -m "$model" --format jsonl --field "$field" "$1" | "$BIN/tap" | sed 's/.*"tokens":\[\([^]]*\)\].*/\1/' |
    awk -F, '{ print NF }'
