#!/bin/sh
# scaling.sh - what a token costs after 128, 512 and 2048 others, and how much faster two workers of one thread sample than one.
#
#     tests/bench/scaling.sh [--rounds 3] [--threads 2] [--tokens 64] [--prompts 192] [--work build/vas] [--figures FILE]
#
# The base policy is that of steering.sh, in float32.  Workers answer the same prompts out of a store, 8 rollouts each, in batches of
# 32 as they do unless told otherwise, and leave; their starts count.  Of random weights, responses hardly ever end early: so many
# prompts make as many batches for each worker.  The peer of both workers is one of them.  The limit is what the machine allows two:
# as many times one of them as two generators without a store, each alone with its model, are together faster than one.
#
# Prints a table (table.awk).  --figures: adds the figures to this file and prints none.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
rounds=3 threads=2 tokens=64 prompts=192 work=$BUILD/vas
bench_begin 'rounds threads tokens prompts' "$@"
bench_models
stories=$work/stories.jsonl

store=
trap '[ -z "$store" ] || kill -TERM "$store"; rm -rf "$work/scaling"' EXIT
trap 'exit 75' INT TERM HUP

workers() {  # workers COUNT: the tokens a second of so many
    rm -rf "$work/scaling"
    mkdir "$work/scaling"
    VAS_STORE=ipc://$work/scaling/sock
    export VAS_STORE
    store serve -q --db "$work/scaling/store.db" --listen "$VAS_STORE" &
    store=$!
    head -n "$prompts" "$stories" | tokenize -q -m "$work/base" --field text
    begun=$(date +%s%N)
    pids=
    for worker in $(seq "$1"); do
        rollout -q -m "$work/base" -n 8 -t 1 --max-new-tokens "$tokens" &
        pids="$pids $!"
    done
    for pid in $pids; do
        wait "$pid"
    done
    ended=$(date +%s%N)
    kill -TERM "$store"
    wait "$store"
    store=
    count=$(store export -q --db "$work/scaling/store.db" | sed 's/.*"tokens":\([0-9]*\).*/\1/' | awk '{ n += $1 } END { print n }')
    awk -v tokens="$count" -v ns=$((ended - begun)) 'BEGIN { print tokens * 1e9 / ns }'
}

generators() {  # generators COUNT: the tokens a second of so many at once
    pids=
    for generator in $(seq "$1"); do
        "$BUILD/tests/bench/bench_engine" -m "$work/base" -t 1 $(yes "sample:32:16:$tokens" | head -n 8) \
            >"$work/scaling/generator.$generator" &
        pids="$pids $!"
    done
    for pid in $pids; do
        wait "$pid"
    done
    cat "$work"/scaling/generator.* | awk '{ s += 1 / $2 } END { print '"$1"' * NR / s }'
    rm "$work"/scaling/generator.*
}

round=0
while [ $round -lt "$rounds" ]; do
    round=$((round + 1))
    echo "scaling.sh: round $round of $rounds" >&2
    for context in 128 512 2048; do
        "$BUILD/tests/bench/bench_engine" -m "$work/base" -t "$threads" "sample:1:$context:$tokens" |
            awk -v OFS='\t' -v round=$round -v context=$context '{ print round, "after " context " tokens", "ours", $2 }' >>"$out"
    done
    two=$(workers 2)
    two_generators=$(generators 2)
    one_generator=$(generators 1)
    one=$(workers 1)
    awk -v OFS='\t' -v round=$round -v two="$two" -v one="$one" -v most="$two_generators" -v least="$one_generator" '
        BEGIN {
            what = "2 workers of 1 thread"
            print round, what, "ours", two
            print round, what, "1 worker", one
            print round, what, "limit", one * most / least
        }' >>"$out"
done
bench_table
