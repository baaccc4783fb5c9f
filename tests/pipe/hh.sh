#!/bin/sh
# Goal: the alignment that the method was published with: HH dialogues, a Llama base policy, a smaller value model and a DeBERTa-v3
# reward model, all scaled down (tests/parity/make_hh_models.py made them); and reward models in every place that takes a reward.
set -u
. tests/lib.sh
hh=tests/parity/hh

# The numbers under a key in JSON lines.
numbers() {
    sed -n "s/.*\"$1\":\\([-+.0-9e]*\\).*/\\1/p"
}
# The scored frames of a stream as JSON lines.
scored() {
    tap <"$1" | grep '^{"type":"scored"'
}

# ---- the whole path ----

code=0
pipelines/align.sh -m $hh/base --value-model $hh/value --reward-model $hh/reward --format hh --prompts $hh/dialogues.jsonl \
    --eval-fraction 0.3 --reward rm --work "$scratch/align" --samples 32 --eval-samples 16 --base-samples 16 \
    --max-new-tokens 24 --betas 30 --epochs 3 --lr 2e-2 \
    >"$scratch/table" 2>"$scratch/align.err" || code=$?
[ $code = 0 ] && ok "align.sh completes" || not_ok "align.sh exited with $code: $(tail -n 2 "$scratch/align.err")"
grep -q 'kind=encoder join=last-turn truncate=left' "$scratch/align/log/reward" && ok "reward says how it joins" ||
    not_ok "reward says how it joins: $(head -n 1 "$scratch/align/log/reward")"
awk '$1 == "base" { base = $3 } $1 == "rm" { steered = $4 } END { exit !(steered > base) }' "$scratch/table" &&
    ok "the steered policy scores higher than the base" ||
    not_ok "steered: $(grep -e '^base' -e '^rm' "$scratch/table" | tr '\n' ';')"

code=0
head -n 3 $hh/dialogues.jsonl >"$scratch/few.jsonl"
pipelines/align.sh -m $hh/base --reward-model $hh/reward --format hh --prompts "$scratch/few.jsonl" --eval-fraction 0.000001 \
    --work "$scratch/few" \
    >"$scratch/few.out" 2>"$scratch/few.err" || code=$?
[ $code = 65 ] && grep -q 'no prompt is in the split eval' "$scratch/few.err" && grep -q '^hint: ' "$scratch/few.err" &&
    ok "no eval prompts are noticed before anything is sampled" ||
    not_ok "without eval prompts: code $code: $(tail -n 1 "$scratch/few.err")"
check "with --eval-fraction 0 it trains only" pipelines/align.sh -m $hh/base --value-model $hh/value \
    --reward-model $hh/chat_reward --reward-label not-harmful-harmful --format hh --prompts "$scratch/few.jsonl" \
    --eval-fraction 0 --work "$scratch/train" --samples 4 \
    --max-new-tokens 8 --epochs 1
check "and leaves a value model" test -f "$scratch/train/value-reward/model.safetensors"

echo '{"messages": [{"role": "user", "content": "How do I bake bread?"}]}' >"$scratch/messages.jsonl"
check "messages in the format that --chat names" pipelines/align.sh -m $hh/base --value-model $hh/value \
    --lexicon pipelines/kind.txt --chat hh --prompts "$scratch/messages.jsonl" --eval-fraction 0 --work "$scratch/messages" \
    --samples 4 --max-new-tokens 8 --epochs 1

# ---- killed and started again, in a store ----

VAS_STORE=ipc://$scratch/store.sock
export VAS_STORE
store serve -q --db "$scratch/align/store.db" --listen "$VAS_STORE" 2>"$scratch/store.err" &
server=$!
test_pids=$server
again_done() {
    store status -s "$VAS_STORE" | awk '$1 == "reward" && $2 == "again" { done = $4 } END { print done + 0 }'
}
kills=0
for share in 1 200 400; do
    reward -q --name again --model $hh/reward --batch 1 -t 1 2>/dev/null &
    pid=$!
    test_pids="$server $pid"
    while [ "$(again_done)" -lt $share ] && kill -0 $pid 2>/dev/null; do :; done
    kill -KILL $pid 2>/dev/null && kills=$((kills + 1))
    wait $pid 2>/dev/null
done
[ $kills -ge 1 ] && ok "$kills times killed at work" || not_ok "it was never killed at work"
check "after kills the same command completes" reward --name again --model $hh/reward
for name in rm again; do
    store export --db "$scratch/align/store.db" --reward $name | sed 's/"reward":"[a-z]*",//' | sort >"$scratch/$name.jsonl"
done
same "the scores are those of a run that was never disturbed" "$scratch/rm.jsonl" "$scratch/again.jsonl"
refused "the name stands for this join" 78 'has join "last-turn", this worker has "concat"' reward -q --name again \
    --model $hh/reward --join concat
kill -TERM $server
wait $server
unset VAS_STORE

# ---- between pipes ----

head -n 6 $hh/dialogues.jsonl | tokenize -q -m $hh/base --format hh >"$scratch/prompts"
rollout -q -m $hh/base -n 4 --max-new-tokens 24 <"$scratch/prompts" >"$scratch/rollouts"
reward -q --name rm --model $hh/reward <"$scratch/rollouts" >"$scratch/scored"
check "an encoder scores every response" test "$(scored "$scratch/scored" | numbers score | wc -l)" = 24
reward -q --name rm -m $hh/reward --batch 3 -t 1 <"$scratch/rollouts" >"$scratch/by_threes"
scored "$scratch/scored" >"$scratch/scored.jsonl"
scored "$scratch/by_threes" >"$scratch/by_threes.jsonl"
same "batches and threads change nothing" "$scratch/scored.jsonl" "$scratch/by_threes.jsonl"
for label in harmful not-harmful not-harmful-harmful; do
    reward -q --name rm --model $hh/chat_reward --label $label <"$scratch/rollouts" >"$scratch/decoder"
    scored "$scratch/decoder" | numbers score >"$scratch/$label"
done
paste "$scratch/harmful" "$scratch/not-harmful" "$scratch/not-harmful-harmful" |
    awk '{ d = $2 - $1 - $3; if (d > 1e-5 || d < -1e-5) exit 1 } END { exit NR != 24 }' &&
    ok "a decoder scores every response; A-B is the difference" ||
    not_ok "scores of a decoder: $(head -n 2 "$scratch/not-harmful-harmful")"
reward -q --name rm --model $hh/reward --quant q8_0 <"$scratch/rollouts" >"$scratch/rounded"
scored "$scratch/scored" | numbers score >"$scratch/exact"
scored "$scratch/rounded" | numbers score | paste "$scratch/exact" - |
    awk '{ d = $1 - $2; if (d > 0.3 || d < -0.3) exit 1; if (d != 0) changed = 1 } END { exit !changed }' &&
    ok "--quant rounds a little" || not_ok "--quant: $(scored "$scratch/rounded" | numbers score | head -n 2)"

# The best of four is the one that reward would have found.
tap <"$scratch/prompts" | grep '"type":"prompt"' | sed 's/.*"prompt":\("\([^"\\]\|\\.\)*"\).*/{"prompt":\1}/' \
    >"$scratch/prompts.jsonl"
decode -m $hh/base --best-of 4 --max-new-tokens 24 --reward-model $hh/reward --json "$scratch/prompts.jsonl" >"$scratch/best" \
    2>"$scratch/best.err"
scored "$scratch/scored" | numbers score | awk '{ if (NR % 4 == 1 || $1 > best) best = $1 } NR % 4 == 0 { print best }' \
    >"$scratch/best.expected"
numbers score <"$scratch/best" >"$scratch/best.scores"
same "decode --best-of takes a reward model" "$scratch/best.expected" "$scratch/best.scores"
grep -q 'kl' "$scratch/best" "$scratch/best.err" && not_ok "best-of shows a KL that it does not know" || ok "best-of shows no KL"

# ---- refusals ----

refused "no scorer" 64 'a scorer is needed' reward --name x
grep -q '^hint: ' "$scratch/refused.err" && ok "and a hint" || not_ok "and a hint: $(cat "$scratch/refused.err")"
refused "two scorers" 64 'only one scorer' reward --name x --exec cat --model $hh/reward
refused "several labels" 64 'several labels: 0 "harmful", 1 "not-harmful"' reward -q --name x --model $hh/chat_reward
refused "an unknown label" 64 'no label "kind", it has: 0 "harmful"' reward -q --name x --model $hh/chat_reward --label kind
refused "an unknown join" 64 'join is "both"' reward -q --name x --model $hh/reward --join both
refused "a language model" 65 'LlamaForCausalLM, which has no sequence-classification head' reward -q --name x --model $hh/base
refused "a missing directory" 66 'no such directory' reward -q --name x --model /nowhere
refused "a reward model without --best-of" 64 'are for --best-of' decode -m $hh/base --reward-model $hh/reward hello

# ---- real dialogues ----

dialogues=$data/hh-rlhf/harmless-base-test.jsonl.gz
if [ -f "$dialogues" ]; then
    gunzip -c "$dialogues" 2>/dev/null | head -n 60 | tokenize -q -m $hh/base --format hh |
        rollout -q -m $hh/base -n 1 --max-new-tokens 16 |
        reward -q --name rm --model $hh/reward >"$scratch/real"
    check "real HH dialogues are scored" test "$(scored "$scratch/real" | numbers score | wc -l)" = 60
else
    echo "skip real HH dialogues: $dialogues is not here"
fi
