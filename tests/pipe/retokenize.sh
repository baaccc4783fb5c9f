#!/bin/sh
# Goal: a value model whose tokenizer is not the base policy's is trained on the text and steers through it, between pipes and from
# a store; without the option that allows it every stage refuses it by name.
set -u
. tests/lib.sh
tiny_model

# Another tokenizer, and a value model that starts from random weights over it.
mkdir -p "$scratch/other"
tokenize -q --train-vocab 290 --field prompt -o "$scratch/other" "$tiny/prompts.jsonl"
sed 's/"vocab_size": 320/"vocab_size": 290/' "$tiny/config/config.json" >"$scratch/other/config.json"

head -n 16 "$tiny/prompts.jsonl" >"$scratch/prompts.jsonl"
tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl" | rollout -q -m "$tiny/base" -n 8 --max-new-tokens 24 |
    reward -q --name kind --lexicon pipelines/kind.txt >"$scratch/scored"

value-target -q <"$scratch/scored" >"$scratch/targets"
code=0
train -q -m "$scratch/other" --from-scratch --epochs 1 -o "$scratch/no" <"$scratch/targets" 2>"$scratch/err" || code=$?
[ $code = 65 ] && [ "$(grep -c 'value-target --value-tokenizer' "$scratch/err")" = 1 ] &&
    grep -q "left out examples=$(tap <"$scratch/targets" | grep -ac '"type":"target"')\$" "$scratch/err" &&
    ok "states of the policy's tokens do not train it, which is said once" ||
    not_ok "states of the policy's tokens: train exited with $code: $(head -n 1 "$scratch/err")"
value-target -q --value-tokenizer "$scratch/other" <"$scratch/scored" >"$scratch/own-targets"
states=$(tap <"$scratch/own-targets" | head -n 1 | grep -c '"state_tokenizer": *"[0-9a-f]')
[ "$states" = 1 ] && ok "targets say whose states they are" || not_ok "targets do not say whose states they are"
check "states of its own tokens do" \
    sh -c "train -q -m '$scratch/other' --from-scratch --batch 16 --epochs 8 -o '$scratch/value' <'$scratch/own-targets'"

foreign_values() { value-target -q --lambda 0.5 -m "$scratch/value" "$@" <"$scratch/scored" >"$scratch/foreign"; }
code=0
foreign_values 2>"$scratch/err" || code=$?
[ $code = 65 ] && grep -q 'hint: --value-tokenizer' "$scratch/err" && ok "its values of the policy's ids are refused" ||
    not_ok "its values of the policy's ids: value-target exited with $code: $(head -n 1 "$scratch/err")"
check "its values of its own are not" foreign_values --value-tokenizer "$scratch/other"
refused "it does not steer without its tokenizer" 65 'has tokenizer' decode -q -m "$tiny/base" \
    --value "$scratch/value:5" "One day, Mia"
decode -q -m "$tiny/base" --value "$scratch/value:5" --value-tokenizer "$scratch/other" --json -n 4 --max-new-tokens 24 \
    "$scratch/prompts.jsonl" >"$scratch/steered"
[ "$(wc -l <"$scratch/steered")" = 64 ] && ok "it steers with it" || not_ok "it gave $(wc -l <"$scratch/steered") of 64 responses"
decode -q -m "$tiny/base" --value "$scratch/value:5" --value-tokenizer "$scratch/other" --json -n 4 --max-new-tokens 24 --batch 3 \
    "$scratch/prompts.jsonl" >"$scratch/steered-3"
same "the same whatever the batch" "$scratch/steered" "$scratch/steered-3"
decode -q -m "$tiny/base" --json -n 4 --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/base"
decode -q -m "$tiny/base" --value "$scratch/value:0" --json -n 4 --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/zero"
same "beta 0 is the base policy" "$scratch/base" "$scratch/zero"
refused "--score goes by the base policy's tokens" 64 'tokenizer of its own' \
    decode -q -m "$tiny/base" --value "$scratch/value:1" --value-tokenizer "$scratch/other" --score "$scratch/prompts.jsonl"

# A store: bootstrapped values, so that snapshots are asked about retokenized text too.
store serve -q --db "$scratch/store.db" &
test_pids=$!
endpoint=ipc://$scratch/store.db.sock
tokenize -q -s "$endpoint" -m "$tiny/base" --eval-fraction 0 "$scratch/prompts.jsonl"
rollout -q -s "$endpoint" -m "$tiny/base" -n 4 --max-new-tokens 24
reward -q -s "$endpoint" --name kind --lexicon pipelines/kind.txt
value-target -q -s "$endpoint" --run own --reward kind --value-tokenizer "$scratch/other" &
targets=$!
check "a run with states of its own trains from a store" \
    train -q -s "$endpoint" -m "$scratch/other" --from-scratch --run own --batch 16 --epochs 1 -o "$scratch/value-run"
wait $targets && ok "value-target ends with it" || not_ok "value-target failed"
decode -q -s "$endpoint" -m "$tiny/base" --value own:5 --value-tokenizer "$scratch/other" --max-new-tokens 8 "One day, Mia" \
    >"$scratch/from-run"
decode -q -m "$tiny/base" --value "$scratch/value-run:5" --value-tokenizer "$scratch/other" --max-new-tokens 8 "One day, Mia" \
    >"$scratch/from-directory"
same "the run steers like its directory" "$scratch/from-run" "$scratch/from-directory"
