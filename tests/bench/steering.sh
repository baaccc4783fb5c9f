#!/bin/sh
# steering.sh - what steering costs one sequence, and how fast it is beside the way of the method's reference in PyTorch.
#
#     tests/bench/steering.sh [--rounds 5] [--threads 2] [--tokens 64] [--candidates 20] [--types 'f32 bf16'] [--work build/vas]
#                             [--figures FILE]
#
# A base policy of 512 channels and 8 layers, a value model of 288 and 6, 32000 tokens, random weights: 41.7 M and 6.0 M parameters are
# read for each token.  Peers are the base policy alone and, where $VAS_PYTHON (default python3) has torch, those of
# tests/bench/peer_torch_vas.py; all run one after the other in each round.
#
# Prints a table (table.awk).  --figures: adds the figures to this file and prints none.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
rounds=5 threads=2 tokens=64 candidates=20 types='f32 bf16' work=$BUILD/vas
bench_begin 'rounds threads tokens candidates types' "$@"

config() {  # config NAME CHANNELS FEED_FORWARD LAYERS HEADS
    mkdir -p "$work/$1.config"
    cp "$work"/tokenizer/* "$work/$1.config"
    cat >"$work/$1.config/config.json" <<JSON
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "vocab_size": 32000, "hidden_size": $2, "intermediate_size": $3, "num_hidden_layers": $4,
  "num_attention_heads": $5, "num_key_value_heads": $5, "max_position_embeddings": 4096,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true
}
JSON
}
if [ ! -f "$work/value/model.safetensors" ]; then
    awk -v count=100 -v seed=1 -f pipelines/stories.awk >"$work/stories.jsonl"
    tokenize -q --train-vocab 300 --field text -o "$work/tokenizer" "$work/stories.jsonl"
    config base 512 1376 8 8
    config value 288 768 6 6
    head -n 1 "$work/stories.jsonl" | tokenize -q -m "$work/base.config" --field text --end-token |
        train -q -m "$work/base.config" --from-scratch --objective lm --batch 1 --epochs 1 -o "$work/base"
    echo '{"prompt": "One day", "response": " Mia was happy.", "score": 1}' >"$work/scored.jsonl"
    tokenize -q -m "$work/value.config" --format rollouts "$work/scored.jsonl" | value-target -q |
        train -q -m "$work/value.config" --from-scratch --batch 1 --epochs 1 -o "$work/value"
fi
peer=
if has_python torch; then
    peer=1
fi

for type in $types; do
    case $type in f32) quant= ;; *) quant="--quant $type" ;; esac
    case $type in f32) torch=float32 ;; bf16) torch=bfloat16 ;; *) torch= ;; esac
    round=0
    while [ $round -lt "$rounds" ]; do
        round=$((round + 1))
        echo "steering.sh: $type, round $round of $rounds" >&2
        "$BUILD/tests/bench/bench_engine" -m "$work/base" --value "$work/value" $quant -t "$threads" \
            "sample:1:32:$tokens" "steer:$candidates:1:32:$tokens" "sample:1:32:$tokens" "steer:$candidates:1:32:$tokens" |
            awk -v OFS='\t' -v round=$round -v what="$type steered, $candidates candidates" '
                { print round, what, $1 ~ /^sample/ ? "the base policy alone" : "ours", $2 }' >>"$out"
        [ -z "$peer" ] || [ -z "$torch" ] || [ "$candidates" != 20 ] ||
            "$python" tests/bench/peer_torch_vas.py "$work/base" "$work/value" "$threads" $torch "$tokens" reference sequential batched |
            awk -v OFS='\t' -v round=$round -v what="$type steered, $candidates candidates" '{ print round, what, "PyTorch, " $1, $2 }' >>"$out"
    done
done
bench_table
