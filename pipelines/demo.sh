#!/bin/sh
# demo.sh - the main job on data of its own, in a few minutes on a laptop: builds everything, writes a corpus of
# short stories from a grammar, trains a tokenizer and a small base policy on it, then steers that policy towards
# kinder stories.
#
#     pipelines/demo.sh [DIRECTORY]      (default: demo)
#
# A second run reuses what is there and says so.
set -eu
cd "$(dirname "$0")/.."

work=${1:-demo}
case $work in
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' pipelines/demo.sh; exit 0 ;;
-*) echo "vas-demo: usage: pipelines/demo.sh [DIRECTORY]" >&2; exit 64 ;;
esac
pipelines/setup.sh >&2
mkdir -p "$work"
work=$(cd "$work" && pwd)
bin=${BIN:-bin}

say() {
    echo "demo: $*" >&2
}

if [ ! -f "$work/stories.jsonl" ]; then
    say "writing a corpus of 5000 short stories"
    awk -v count=5000 -v seed=1 -f pipelines/stories.awk >"$work/stories.new"
    awk -v count=1200 -v seed=2 -v prompts=1 -f pipelines/stories.awk >"$work/prompts.jsonl"
    mv "$work/stories.new" "$work/stories.jsonl"
fi

if [ -f "$work/base/model.safetensors" ]; then
    say "reusing the base policy $work/base"
else
    say "training a byte-level BPE tokenizer and a base policy"
    "$bin/tokenize" --train-vocab 512 --field text -o "$work/config" "$work/stories.jsonl"
    cat >"$work/config/config.json" <<'JSON'
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "vocab_size": 512, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4,
  "num_attention_heads": 6, "num_key_value_heads": 3, "max_position_embeddings": 256,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true
}
JSON
    "$bin/tokenize" -m "$work/config" --field text --end-token "$work/stories.jsonl" |
        "$bin/train" -m "$work/config" --from-scratch --objective lm --batch 32 --epochs 3 -o "$work/base"
fi

[ ! -f "$work/store.db" ] || say "reusing what the store $work/store.db has"
exec pipelines/align.sh --model "$work/base" --prompts "$work/prompts.jsonl" --lexicon pipelines/kind.txt --reward kind \
    --work "$work" --samples 8 --max-new-tokens 96 --betas '1 3 10 30' --epochs 2
