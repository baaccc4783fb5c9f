#!/bin/sh
# Goal: with --keep-packed every program that opens a model gives the bytes it gives without; the second start writes nothing, and
# two workers have the weights in memory once.
set -u
. tests/lib.sh
tiny_model
model=$scratch/model
cp -r "$tiny/base" "$model"
head -n 6 "$tiny/prompts.jsonl" >"$scratch/prompts.jsonl"
tokenize -q -m "$model" "$scratch/prompts.jsonl" >"$scratch/frames"

# state DIR: which packed files there are, and what says that each is still the same
state() {
    find "$1" -name '*.packed*' -exec stat -c '%n %i %s %y %z' {} + | sort
}

# equal NAME DIR FILE COMMAND...: COMMAND prints FILE's bytes with --keep-packed, twice,
# and the second time leaves what is kept in DIR alone
equal() {
    name=$1 directory=$2 expected=$3
    shift 3
    "$@" --keep-packed >"$scratch/first" 2>"$scratch/first.err"
    state "$directory" >"$scratch/state-first"
    "$@" --keep-packed >"$scratch/second" 2>"$scratch/second.err"
    state "$directory" >"$scratch/state-second"
    [ -s "$expected" ] || not_ok "$name: nothing to compare with"
    same "$name: the same when it writes the file" "$expected" "$scratch/first"
    same "$name: the same when it maps the file" "$expected" "$scratch/second"
    if [ -s "$scratch/state-first" ] && cmp -s "$scratch/state-first" "$scratch/state-second" &&
        grep -q 'wrote packed weights' "$scratch/first.err" &&
        ! grep -q 'packed weights' "$scratch/second.err"; then
        ok "$name: written once"
    else
        kept=$(tr '\n' ' ' <"$scratch/state-first") then=$(tr '\n' ' ' <"$scratch/state-second")
        not_ok "$name: kept $kept then $then: $(cat "$scratch/second.err")"
    fi
}

decode -q -m "$model" --json --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/decoded"
equal "decode" "$model" "$scratch/decoded" decode -m "$model" --json --max-new-tokens 24 "$scratch/prompts.jsonl"
for quant in bf16 q8_0 q4_0 nf4; do
    decode -q -m "$model" --quant $quant --json --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/decoded-$quant"
    equal "decode --quant $quant" "$model" "$scratch/decoded-$quant" decode -m "$model" --quant $quant --json \
        --max-new-tokens 24 "$scratch/prompts.jsonl"
done
[ "$(state "$model" | wc -l)" = 5 ] && ok "a file for each rounding" || not_ok "there are $(state "$model" | tr '\n' ' ')"
mkdir "$scratch/gguf"
for type in f16 q8_0 q4_0; do
    model export -q -m "$model" -o "$scratch/gguf/$type.gguf" --type $type
    decode -q -m "$scratch/gguf/$type.gguf" --json --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/decoded-gguf"
    equal "decode of GGUF's $type" "$scratch/gguf" "$scratch/decoded-gguf" decode -m "$scratch/gguf/$type.gguf" --json \
        --max-new-tokens 24 "$scratch/prompts.jsonl"
done

# ---- the other programs ----

# frames TYPE: those of standard input as JSON lines; the stream has others, which say how long it took
frames() {
    tap | grep "^{\"type\":\"$1\""
}

rm -f "$model"/*.packed
run_rollout() { rollout -m "$model" -n 2 --max-new-tokens 24 "$@" <"$scratch/frames"; }
run_rollout -q >"$scratch/rollouts"
frames rollout <"$scratch/rollouts" >"$scratch/expected"
frames_of_rollout() { run_rollout "$@" | frames rollout; }
equal "rollout" "$model" "$scratch/expected" frames_of_rollout

reward -q --name length --exec 'while IFS= read -r line; do echo ${#line}; done' --scale 0.01 <"$scratch/rollouts" \
    >"$scratch/scored"
value=$scratch/value
value-target -q <"$scratch/scored" | train -q -m "$tiny/base" --batch 4 --epochs 1 --lr 0.01 -o "$value" >/dev/null
frames_of_value_target() { value-target --lambda 0.5 -m "$value" "$@" <"$scratch/scored" | frames target; }
frames_of_value_target -q >"$scratch/expected"
equal "value-target" "$value" "$scratch/expected" frames_of_value_target

for kind in reward chat_reward; do  # an encoder with one label, a decoder with two
    cp -r tests/parity/hh/$kind "$scratch/$kind"
    frames_of_reward() { reward --name rm -m "$scratch/$kind" --label 0 "$@" <"$scratch/rollouts" | frames scored; }
    frames_of_reward -q >"$scratch/expected"
    equal "reward by $kind" "$scratch/$kind" "$scratch/expected" frames_of_reward
done

rm -f "$value"/*.packed
decode -q -m "$model" --value "$value:30" --value-quant q8_0 --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/steered"
equal "decode --value" "$value" "$scratch/steered" decode -m "$model" --value "$value:30" --value-quant q8_0 \
    --max-new-tokens 24 "$scratch/prompts.jsonl"

# Two adapters of one base: its weights are kept once, beside it, and adapters have nothing to keep.
trunk=$scratch/trunk
cp -r "$tiny/base" "$trunk"
value-target -q <"$scratch/scored" >"$scratch/targets"
for rank in 2 4; do
    train -q -m "$trunk" --lora $rank --batch 4 --epochs 4 --lr 0.01 -o "$scratch/value-$rank" <"$scratch/targets" >/dev/null
done
steer_both() {
    decode -m "$model" --value "$scratch/value-2/adapter:30" --value "$scratch/value-4/adapter:-20" --max-new-tokens 24 "$@" \
        "$scratch/prompts.jsonl"
}
for quant in '' '--value-quant q8_0'; do
    steer_both -q $quant >"$scratch/steered"
    equal "decode of two adapters${quant:+ }$quant" "$trunk" "$scratch/steered" steer_both $quant
done
[ "$(state "$trunk" | wc -l)" = 2 ] && [ -z "$(state "$scratch/value-2")$(state "$scratch/value-4")" ] &&
    ok "the base of two adapters is kept once" ||
    not_ok "there are $(state "$trunk") $(state "$scratch/value-2") $(state "$scratch/value-4")"

# ---- two workers ----

# held PID FIELD: kB of smaps' field in what the process has mapped of the kept file
held() {
    awk -v field="$2:" '/^[0-9a-f]+-/ { kept = /model\.packed$/ } kept && $1 == field { sum += $2 } END { print sum + 0 }' \
        "/proc/$1/smaps"
}
# resident PID: it has all of the weights
resident() {
    [ "$(held "$1" Rss)" -ge "$size" ]
}

if [ -r /proc/self/smaps ]; then
    size=$(($(stat -c %s "$model/model.packed") / 1024))
    mkfifo "$scratch/in"
    for worker in 1 2; do
        rollout -q -m "$model" --keep-packed <"$scratch/in" >/dev/null 2>"$scratch/worker-$worker" &
        eval "worker_$worker=\$!"
        test_pids="${test_pids:-} $!"
    done
    exec 3>"$scratch/in"
    if until_true resident "$worker_1" && until_true resident "$worker_2"; then
        rss=$(held "$worker_1" Rss)
        shared=$(($(held "$worker_1" Shared_Clean) + $(held "$worker_1" Shared_Dirty)))
        pss=$(($(held "$worker_1" Pss) + $(held "$worker_2" Pss)))
        [ "$shared" = "$rss" ] && ok "all pages are shared" || not_ok "of $rss KiB of one worker $shared are shared"
        [ "$pss" -le $((rss + 2)) ] && ok "two workers hold them once" || not_ok "two workers hold $pss KiB of a file of $rss"
    else
        not_ok "a worker did not map the file: $(cat "$scratch/worker-1" "$scratch/worker-2")"
    fi
    exec 3>&-
    wait "$worker_1" "$worker_2"
else
    echo "skip shared pages: no /proc/PID/smaps here"
fi
