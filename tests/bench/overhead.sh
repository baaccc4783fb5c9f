#!/bin/sh
# overhead.sh - which share of a run is not model arithmetic: wire, store, waiting, starting, everything else?
#
#     tests/bench/overhead.sh [--prompts N] [--samples N] [--tokens N] [--layers N] [--epochs N] [--work DIR]
#                             (default: 64 prompts, 8 samples, 256 tokens, 6 layers: 30 M parameters, 2 epochs, DIR build/overhead)
#
# A model that has seen one story samples, is scored with a word list, is the first value model, is trained and steers.
# Workers count what they do with their time ('store status' shows it).  A part of the run is arithmetic while its main worker
# computes, or waits for another that does; the rest of it, from the start of its programs to their end, is overhead.  Exits 0 when
# that is less than 3 % in all.  What the store does meanwhile, beside the workers, is stated as its processor time.
set -eu
cd "$(dirname "$0")/../.."

. tests/bench/lib.sh
prompts=64 samples=8 tokens=256 layers=6 epochs=2 work=$BUILD/overhead
bench_begin 'prompts samples tokens layers epochs' "$@"
rm -rf "$work"
mkdir -p "$work/config"
work=$(cd "$work" && pwd)

awk -v count=600 -v seed=1 -f pipelines/stories.awk >"$work/stories.jsonl"
awk -v count="$prompts" -v seed=2 -v prompts=1 -f pipelines/stories.awk |
    sed 's/"split":"[a-z]*"/"split":"train"/' >"$work/prompts.jsonl"
awk -v count=$((prompts / 4 + 1)) -v seed=3 -v prompts=1 -f pipelines/stories.awk |
    sed 's/"split":"[a-z]*"/"split":"eval"/' >>"$work/prompts.jsonl"
tokenize -q --train-vocab 320 --field text -o "$work/config" "$work/stories.jsonl"
cat >"$work/config/config.json" <<JSON
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "vocab_size": 320, "hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": $layers,
  "num_attention_heads": 10, "num_key_value_heads": 10, "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true
}
JSON
head -n 1 "$work/stories.jsonl" | tokenize -q -m "$work/config" --field text --end-token |
    train -q -m "$work/config" --from-scratch --objective lm --batch 1 --epochs 1 -o "$work/start"
model export -q -m "$work/start" -o "$work/model.gguf" --type f16

db=$work/store.db
VAS_STORE=ipc://$db.sock
export VAS_STORE
store serve -q --db "$db" &
store=$!
trap 'kill "$store" 2>/dev/null' EXIT

spent() {  # spent STAGE: seconds so far that its workers computed, that they waited, and that all others computed
    store status --db "$db" | awk -v stage="$1" '$1 == "spent" {
        compute = $(NF - 8) * $(NF - 7) / 100
        if ($2 == stage) { mine += compute; waited += $(NF - 8) * $(NF - 5) / 100 } else others += compute
    } END { print mine + 0, waited + 0, others + 0 }'
}
begin() {  # begin STAGE
    stage=$1 begun=$(date +%s%N) before=$(spent "$1")
}
end() {  # end NAME
    echo "$before $(spent "$stage")" | awk -v name="$1" -v took=$((($(date +%s%N) - begun) / 1000000)) '{
        took /= 1000
        waited = $5 - $2
        others = $6 - $3
        arithmetic = $4 - $1 + (waited < others ? waited : others)
        printf "%-24s %8.1f s, arithmetic %8.1f s, not arithmetic %5.2f %%\n", name, took, arithmetic, 100 * (1 - arithmetic / took)
    }' | tee -a "$work/parts"
}

tokenize -q -m "$work/model.gguf" "$work/prompts.jsonl"
begin rollout
rollout -m "$work/model.gguf" -n "$samples" --max-new-tokens "$tokens"
reward --name kind --lexicon pipelines/kind.txt
end 'sampling and scoring'
begin train
value-target --run kind --reward kind --refresh 2 &
train -m "$work/model.gguf" --run kind --refresh 2 --epochs "$epochs" --batch 32 --updates 2 -o "$work/value"
wait $!
end training
begin decode
decode -m "$work/model.gguf" --value kind:5 --policy steered --split eval -n 2 --max-new-tokens "$tokens"
reward --name kind --lexicon pipelines/kind.txt
end 'steering and scoring'

store status --db "$db" | grep '^spent\|seconds'
awk -v hertz="$(getconf CLK_TCK)" '{ printf "the store used %.1f s of a processor\n", ($14 + $15) / hertz }' "/proc/$store/stat"
awk '{ took += $(NF - 8); arithmetic += $(NF - 5) } END {
    share = 100 * (1 - arithmetic / took)
    printf "in all %.1f s, of which %.2f %% are not arithmetic\n", took, share
    exit !(share < 3)
}' "$work/parts"
