#!/bin/sh
# Goal: a training that is stopped or killed again and again, at whatever steps, ends with the bytes of one that was not: weights,
# targets computed from its snapshots, metrics.  With all weights and with adapters.
set -u
. tests/lib.sh
tiny_model

store_up "$scratch/scored.db"
grep '"train"' "$tiny/prompts.jsonl" | head -n 40 | tokenize -q -m "$tiny/base"
rollout -q -m "$tiny/base" -n 4 --max-new-tokens 24
reward -q --name kind --lexicon pipelines/kind.txt
store_down
test_pids=

# Leaves $scratch/NAME.digest, the trained directory $scratch/NAME, and in $scratch/NAME.err what train said.
training() {  # training NAME SIGNAL|- OPTIONS...
    name=$1 signal=$2
    shift 2
    cp "$scratch/scored.db" "$scratch/$name.db"
    store_up "$scratch/$name.db"
    value-target -q --run kind --reward kind --lambda 0.9 &
    targets=$!
    test_pids="$store_pid $targets"
    code=75 tries=0
    until [ $code = 0 ] || [ $tries = 300 ]; do
        train -m "$tiny/base" --run kind --batch 8 --epochs 4 --updates 1 "$@" -o "$scratch/$name" 2>>"$scratch/$name.err" &
        train=$!
        test_pids="$store_pid $targets $train"
        if [ "$signal" != - ]; then
            sleep $(awk -v n=$tries 'BEGIN { print 0.1 + 0.007 * n }')  # longer each time, so that it ends on slow machines too
            kill "-$signal" $train 2>/dev/null
        fi
        code=0
        wait $train 2>/dev/null || code=$?
        tries=$((tries + 1))
        case $code in
        0 | 75 | 137 | 143) ;;
        *) not_ok "$name: train ended with $code: $(tail -n 1 "$scratch/$name.err")"; break ;;
        esac
    done
    [ $code = 0 ] || kill $targets
    wait $targets
    store_down
    store digest --db "$scratch/$name.db" >"$scratch/$name.digest"
}

interrupted() {  # interrupted NAME WHOLE
    steps=$(sed -n 's/.*resumes at step=\([0-9]*\).*/\1/p' "$scratch/$1.err" | sort -nu | wc -l)
    [ "$steps" -ge 3 ] && ok "$1: resumed at $steps different steps" ||
        not_ok "$1: resumed at $steps different steps, expected some"
    same "$1: the store has the same content" "$scratch/$2.digest" "$scratch/$1.digest"
    check "$1: the model has the same bytes" diff -r "$scratch/$2" "$scratch/$1"
}

training whole -
training stopped TERM --checkpoint-every 1000  # only what a stop leaves
training killed KILL --checkpoint-every 3
interrupted stopped whole
interrupted killed whole
training whole-lora - --lora 2
training stopped-lora TERM --lora 2 --checkpoint-every 1000
training killed-lora KILL --lora 2 --checkpoint-every 3
interrupted stopped-lora whole-lora
interrupted killed-lora whole-lora
