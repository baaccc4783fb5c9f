#!/bin/sh
# mpi.sh - how much faster 2 ranks of 1 thread train than 1 rank of 1 thread, and than 1 rank of 2 threads, with the same bytes.
#
#     tests/bench/mpi.sh [ROUNDS]      (default 5)
#
# A language model of 5 million parameters, batches of 16 stories, random weights.  Each round times the ways one after the other, each once with
# STEPS and once with three times as many steps, so that starting up does not count; the ratios are of the same round.
set -eu
cd "$(dirname "$0")/../.."
rounds=${1:-5}
for need in mpirun pkg-config; do
    command -v $need >/dev/null || { echo "vas-bench: $need is missing" >&2; exit 69; }
done
make -s -j"$(nproc)" MPI=1 BUILD=build-mpi BIN=build-mpi/bin build-mpi/bin/train build-mpi/bin/tokenize >&2
PATH=$PWD/build-mpi/bin:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 75' INT TERM HUP

BATCH=16 STEPS=3
awk -v count=$((3 * STEPS * BATCH)) -v seed=1 -f pipelines/stories.awk >"$work/stories.jsonl"
tokenize -q --train-vocab 512 --field text -o "$work/config" "$work/stories.jsonl"
cat >"$work/config/config.json" <<'JSON'
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "vocab_size": 512, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6,
  "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true
}
JSON
tokenize -q -m "$work/config" --field text --end-token "$work/stories.jsonl" >"$work/long"
head -n $((STEPS * BATCH)) "$work/stories.jsonl" | tokenize -q -m "$work/config" --field text --end-token >"$work/short"
mpi='mpirun --allow-run-as-root --bind-to none --oversubscribe -n 2'

milliseconds() {  # DATA COMMAND...
    data=$1
    shift
    begun=$(date +%s%N)
    "$@" -q -m "$work/config" --from-scratch --objective lm --batch $BATCH --epochs 1 -o "$work/model" <"$work/$data"
    echo $((($(date +%s%N) - begun) / 1000000))
}
way() {  # COMMAND...: milliseconds of 2 * STEPS steps, and the digest of what they trained
    short=$(milliseconds short "$@")
    long=$(milliseconds long "$@")
    echo $((long - short)) "$(sha256sum <"$work/model/model.safetensors" | cut -c1-8)"
}

echo "round  1x1_ms  2x1_ms  1x2_ms  2x1_of_1x1  2x1_of_1x2  bytes"
for round in $(seq "$rounds"); do
    set -- $(way train -t 1 --parts 2) $(way $mpi train -t 1) $(way train -t 2 --parts 2)
    [ "$2 $4" = "$6 $6" ] && bytes=equal || bytes=DIFFERENT
    awk -v r="$round" -v a="$1" -v b="$3" -v c="$5" -v bytes=$bytes 'BEGIN {
        printf "%5d  %6d  %6d  %6d  %10.2f  %10.2f  %s\n", r, a, b, c, a / b, c / b, bytes }'
done | tee "$work/rounds"
sort -n -k5 "$work/rounds" | awk '{ x[NR] = $5 } END {
    printf "2 ranks of 1 thread over 1 rank of 1 thread: median %.2f, %.2f to %.2f\n", x[int((NR + 1) / 2)], x[1], x[NR] }'
