#!/bin/sh
# mpi.sh - how much faster 2 ranks of 1 thread train than 1 rank of 1 thread, and than 1 rank of 2 threads, with the same bytes.
#
#     tests/bench/mpi.sh [ROUNDS]      (default 5)
#
# A language model of 5 million parameters, batches of 16 stories, random weights.  Each round times the ways one after the other,
# each once with STEPS and once with three times as many steps, so that starting up does not count; ratios are of one round.
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

BATCH=16 STEPS=2
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

measure() {  # DATA COMMAND...: milliseconds by the clock, and of processor time
    data=$1
    shift
    begun=$(date +%s%N)
    "$@" -m "$work/config" --from-scratch --objective lm --batch $BATCH --epochs 1 -o "$work/model" <"$work/$data" 2>>"$work/log"
    ended=$(date +%s%N)
    times >"$work/times"  # in a pipe it would be another process's
    awk -v wall=$(((ended - begun) / 1000000)) 'NR == 2 {
        split($1, user, "m"); split($2, kernel, "m")
        print wall, int(1000 * (60 * (user[1] + kernel[1]) + user[2] + kernel[2])) }' "$work/times"
}
way() {  # COMMAND...: the same of 2 * STEPS steps, and the digest of what they trained
    set -- $(measure short "$@") $(measure long "$@")
    echo $(($3 - $1)) $(($4 - $2)) "$(sha256sum <"$work/model/model.safetensors" | cut -c1-8)"
}

echo "round  1x1_ms  2x1_ms  1x2_ms  2x1_of_1x1  1x2_of_1x1  by_processor_time  bytes"
for round in $(seq "$rounds"); do
    set -- $(way train -t 1 --parts 2) $(way $mpi train -t 1) $(way train -t 2 --parts 2)
    [ "$3 $6" = "$9 $9" ] && bytes=equal || bytes=DIFFERENT
    echo "$round $1 $4 $7 $2 $5 $bytes" | awk '{
        printf "%5d  %6d  %6d  %6d  %10.2f  %10.2f  %17.2f  %s\n", $1, $2, $3, $4, $2 / $3, $2 / $4, 2 * $5 / $6, $7 }'
done | tee "$work/rounds"
spread() {  # COLUMN TEXT
    sort -n -k"$1" "$work/rounds" | awk -v column="$1" -v text="$2" '{ x[NR] = $column } END {
        printf "%s: median %.2f, %.2f to %.2f\n", text, x[int((NR + 1) / 2)], x[1], x[NR] }'
}
spread 5 "2 ranks of 1 thread are faster than 1 rank of 1 thread"
spread 6 "1 rank of 2 threads"
spread 7 "2 ranks by the processor time that each takes, as if both had a core of their own"
sed -n 's/.*waited_s=\([0-9.]*\).*/\1/p' "$work/log" | sort -n | awk '{ x[NR] = $1 } END {
    printf "of which the leading rank waited for gradients, s in a whole training: median %.2f, %.2f to %.2f\n",
            x[int((NR + 1) / 2)], x[1], x[NR] }'
