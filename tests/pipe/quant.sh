#!/bin/sh
# Goal: models rounded on load, models whose tokenizer lies elsewhere, and models that cannot be used: the same policy in every
# batch, another policy than the model as it is, and a clear line for each mistake.
set -u
. tests/lib.sh
tiny_model
base=$tiny/base
head -n 6 "$tiny/prompts.jsonl" >"$scratch/prompts.jsonl"

# key ARGUMENT...: the key of the model that decode opens
key() {
    decode -v -m "$base" --max-new-tokens 1 "$@" '' 2>&1 >/dev/null | sed -n 's/.*loaded model .* key=\([0-9a-f]*\) .*/\1/p'
}

key >"$scratch/keys"
for quant in bf16 q8_0 q4_0 nf4; do
    decode -q -m "$base" --quant $quant --json --max-new-tokens 24 --batch 1 -t 1 "$scratch/prompts.jsonl" >"$scratch/one"
    decode -q -m "$base" --quant $quant --json --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/many"
    same "--quant $quant: a batch of 1 and a batch of 32 give the same responses" "$scratch/one" "$scratch/many"
    key --quant $quant >>"$scratch/keys"
done
decode -q -m "$base" --kv-type f16 --json --max-new-tokens 24 --batch 1 -t 1 "$scratch/prompts.jsonl" >"$scratch/one"
decode -q -m "$base" --kv-type f16 --json --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/many"
same "--kv-type f16: a batch of 1 and a batch of 32 give the same responses" "$scratch/one" "$scratch/many"
[ "$(sort -u "$scratch/keys" | wc -l)" = 5 ] && ok "each rounding has a key of its own" ||
    not_ok "keys are $(tr '\n' ' ' <"$scratch/keys")"

# ---- value models ----

tokenize -q -m "$base" "$scratch/prompts.jsonl" | rollout -q -m "$base" -n 2 --max-new-tokens 24 |
    reward -q --name length --exec 'while IFS= read -r line; do echo ${#line}; done' --scale 0.01 >"$scratch/scored"
value-target -q <"$scratch/scored" | train -q -m "$base" --batch 4 --epochs 1 --lr 0.01 -o "$scratch/value" >/dev/null
value-target -q --lambda 0.5 -m "$scratch/value" <"$scratch/scored" | tap | grep '"type":"target"' >"$scratch/targets"
value-target -q --lambda 0.5 -m "$scratch/value" --quant q4_0 <"$scratch/scored" | tap |
    grep '"type":"target"' >"$scratch/targets-q4"
[ "$(wc -l <"$scratch/targets-q4")" = 12 ] && ! cmp -s "$scratch/targets" "$scratch/targets-q4" &&
    ok "value-target --quant: other values" ||
    not_ok "value-target --quant gave $(wc -l <"$scratch/targets-q4") targets, or the same"
decode -q -m "$base" --value "$scratch/value:30" --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/steered"
decode -q -m "$base" --value "$scratch/value:30" --value-quant nf4 --max-new-tokens 24 "$scratch/prompts.jsonl" \
    >"$scratch/steered-nf4"
[ "$(wc -l <"$scratch/steered-nf4")" = 6 ] && ! cmp -s "$scratch/steered" "$scratch/steered-nf4" &&
    ok "decode --value-quant: other steering" || not_ok "decode --value-quant changed nothing"

# ---- llama2.c's files bring no tokenizer ----

if [ -f "$data/stories260K/stories260K.bin" ]; then
    stories=$data/stories260K
    decode -q -m "$stories/stories260K.bin" --tokenizer "$stories/tok512.model" --greedy --max-new-tokens 256 '' >"$scratch/greedy"
    same "greedy text of llama2.c's file is llama2.c's, byte for byte" "$scratch/greedy" "$stories/golden-greedy-n256.txt"
    echo '{"prompt":"Once upon a time"}' | tokenize -q -m "$stories/tok512.model" >"$scratch/frames"
    for model in "$stories/stories260K.gguf" "$stories/stories260K.bin"; do
        rollout -q -m "$model" --tokenizer "$stories/tok512.model" -n 4 --max-new-tokens 40 <"$scratch/frames" | tap |
            grep '"type":"rollout"' >"$scratch/rollouts-${model##*.}"
    done
    same "llama2.c's file and the GGUF file sample the same" "$scratch/rollouts-bin" "$scratch/rollouts-gguf"
    refused "llama2.c's file without --tokenizer" 65 "stories260K.bin" decode -m "$stories/stories260K.bin" ''
else
    echo "skip llama2.c's file: $data is not here"
fi

# ---- what cannot be ----

refused "a rounding that decode does not know" 64 '--quant is "q5_k", must be bf16, q8_0, q4_0 or nf4' decode -m "$base" \
    --quant q5_k ''
refused "a rounding of value models that it does not know" 64 '--value-quant is "f16"' decode -m "$base" --value-quant f16 ''
refused "keys and values that decode cannot hold" 64 '--kv-type is "q8_0", must be f32 or f16' decode -m "$base" \
    --kv-type q8_0 ''
refused "a rounding that rollout does not know" 64 '--quant is ""' rollout -m "$base" --quant ''
refused "a rounding that value-target does not know" 64 '--quant is "q4"' value-target --lambda 0.5 -m "$scratch/value" --quant q4
cp -r "$base" "$scratch/classifier"
sed 's/LlamaForCausalLM/LlamaForSequenceClassification/' "$base/config.json" >"$scratch/classifier/config.json"
refused "a classifier without its head" 65 'tensor "score.weight" is missing' decode -m "$scratch/classifier" ''
refused "a sequence classifier as base policy" 65 'a base policy needs a language model head' \
    rollout -m tests/parity/families/llama_scores --tokenizer "$base"
refused "a tokenizer that is missing" 66 'no-such' decode -m "$base" --tokenizer "$scratch/no-such" ''

# A llama2.c file of 1 TiB, nearly all of it a hole: C 65536, F 8, 1 layer, 512 heads of 128 sharing 1, V 4194304, 16 positions.
for number in '\000\000\001\000' '\010\000\000\000' '\001\000\000\000' '\000\002\000\000' '\001\000\000\000' '\000\000\100\000' \
    '\020\000\000\000'; do
    printf "$number"
done >"$scratch/large.bin"
C=65536 F=8 V=4194304 KV=128 P=16
if truncate -s $((28 + 4 * (V * C + 2 * C * C + 2 * C * KV + 3 * C * F + 3 * C + P * KV))) "$scratch/large.bin" 2>/dev/null; then
    refused "a model larger than this machine" 71 "large.bin\" needs 1[0-9]\{6\} MiB of memory" \
        decode -m "$scratch/large.bin" --tokenizer "$base" ''
else
    echo "skip a model larger than this machine: no room for a hole of 1 TiB"
fi
