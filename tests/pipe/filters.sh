#!/bin/sh
# Goal: every stage runs alone between pipes, without a store, and tap shows every edge.
set -u
. tests/lib.sh
tiny_model

head -n 6 "$tiny/prompts.jsonl" >"$scratch/prompts.jsonl"
tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl" >"$scratch/prompts" &&
    rollout -q -m "$tiny/base" -n 4 --max-new-tokens 24 <"$scratch/prompts" >"$scratch/rollouts" &&
    reward -q --name kind --lexicon pipelines/kind.txt <"$scratch/rollouts" >"$scratch/scored" &&
    value-target -q <"$scratch/scored" >"$scratch/targets" &&
    train -q -m "$tiny/base" --batch 8 --epochs 1 -o "$scratch/value" <"$scratch/targets"
check "the stages work one after the other" test -f "$scratch/value/model.safetensors"

# One frame of the right type for each input: 6 prompts, 24 rollouts.
for edge in prompts:6:prompt rollouts:24:rollout scored:24:scored targets:24:target; do
    IFS=: read -r file count type <<END
$edge
END
    found=$(tap <"$scratch/$file" | grep -ac "\"type\": *\"$type\"")
    [ "$found" = "$count" ] && ok "tap shows $count frames of $file" || not_ok "tap shows $found frames of $file, expected $count"
done

# Scores of two rewards that come in together are no mistake that stays unseen.
value-target <"$scratch/scored" 2>&1 >"$scratch/one" | grep -c several >"$scratch/said"
reward -q --name meek --lexicon pipelines/kind.txt --scale -1 <"$scratch/rollouts" | cat "$scratch/scored" - |
    value-target 2>&1 >"$scratch/two" | grep -c 'several rewards come in, "kind" and "meek"' >>"$scratch/said"
[ "$(tr '\n' ' ' <"$scratch/said")" = '0 1 ' ] && [ "$(tap <"$scratch/two" | grep -ac '"type":"target"')" = 48 ] &&
    ok "scores of two rewards are named" || not_ok "of one reward and of two it said $(tr '\n' ' ' <"$scratch/said")"

tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl" | rollout -q -m "$tiny/base" -n 4 --max-new-tokens 24 |
    reward -q --name kind --lexicon pipelines/kind.txt | value-target -q |
    train -q -m "$tiny/base" --batch 8 --epochs 1 -o "$scratch/value-pipe"
same "one pipe gives the same value model as files in between" "$scratch/value/model.safetensors" \
    "$scratch/value-pipe/model.safetensors"

# A training between pipes that is stopped, or killed, and started again.
train_long() {
    train -q -m "$tiny/base" --batch 8 --epochs 60 --checkpoint-every 5 -o "$scratch/$1" <"$scratch/targets"
}
interrupt() {  # NAME SIGNAL: once some steps have been made; the exit code is in $code
    rm -rf "$scratch/$1"
    train -q -m "$tiny/base" --batch 8 --epochs 60 --checkpoint-every 5 -o "$scratch/$1" <"$scratch/targets" &
    pid=$!
    wait_for "$scratch/$1/checkpoint.safetensors"
    kill "-$2" $pid
    code=0
    wait $pid 2>/dev/null || code=$?
}
train_long whole
interrupt stopped TERM
[ $code = 75 ] && ok "a training that is stopped says 75" || not_ok "a training that is stopped says $code, expected 75"
check "it can be started again" train_long stopped
same "and gives the same value model" "$scratch/whole/model.safetensors" "$scratch/stopped/model.safetensors"
interrupt killed KILL
check "a training that was killed can be started again" train_long killed
same "and gives the same value model, too" "$scratch/whole/model.safetensors" "$scratch/killed/model.safetensors"

decode -q -m "$tiny/base" --value "$scratch/value:3" --max-new-tokens 12 "One day, Mia the fox" >"$scratch/text"
check "the trained value model steers" test -s "$scratch/text"

tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl" | tap --pass 2>"$scratch/seen" |
    rollout -q -m "$tiny/base" -n 1 --max-new-tokens 2 >/dev/null
[ "$(wc -l <"$scratch/seen")" = 6 ] && ok "tap --pass stands in the middle of a pipe" ||
    not_ok "tap --pass saw $(wc -l <"$scratch/seen") frames, expected 6"
