#!/bin/sh
# Goal: several ranks train the bytes that one process trains with as many --parts, also when a rank is killed and fewer go on; what
# cannot work is refused.
set -u
. tests/lib.sh
tiny_model
BUILD=${BUILD:-build}
model=$tiny/base

tokenize -q -m "$model" "$tiny/prompts.jsonl" | rollout -q -m "$model" -n 4 --max-new-tokens 48 |
    reward -q --name kind --lexicon pipelines/kind.txt | value-target -q >"$scratch/targets"
refused "a batch has no more parts than rollouts" 64 '9 parts (--parts), but a batch has 8 rollouts' \
    train -m "$model" --parts 9 --batch 8 -o "$scratch/none"
refused "a program without MPI is no rank" 69 'built without MPI' \
    env OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 train -m "$model" -o "$scratch/none"

# ---- a train with MPI ----

for need in mpirun pkg-config; do
    command -v $need >/dev/null || { echo "skip mpi: $need is not installed"; exit 0; }
done
pkg-config --exists ompi-c || { echo "skip mpi: OpenMPI's headers are not installed (libopenmpi-dev)"; exit 0; }
mkdir "$scratch/build"
cp -a "$BUILD/common" "$BUILD/stages" "$BUILD/store_sql.h" "$scratch/build/"
check "train is built with MPI" make -s MPI=1 BUILD="$scratch/build" BIN="$scratch/bin" CFLAGS='-O2 -g -Werror' "$scratch/bin/train"
[ -x "$scratch/bin/train" ] || exit 1
mpi_train() {  # RANKS ARGUMENTS...
    ranks=$1
    shift
    timeout 300 mpirun --allow-run-as-root --bind-to none --oversubscribe -n "$ranks" "$scratch/bin/train" -q -t 1 "$@"
}
value() {  # ARGUMENTS of the trainings of value models here
    "$@" -m "$model" --batch 16 --epochs 1 <"$scratch/targets"
}

check "one process in two parts" value train -q -t 1 --parts 2 -o "$scratch/one"
check "two ranks" value mpi_train 2 -o "$scratch/two"
same "they train the same bytes" "$scratch/one/model.safetensors" "$scratch/two/model.safetensors"
same "and say the same of every step" "$scratch/one/metrics.jsonl" "$scratch/two/metrics.jsonl"
check "one process in one part" value train -q -t 1 -o "$scratch/whole"
if paste -d' ' "$scratch/whole/metrics.jsonl" "$scratch/two/metrics.jsonl" | sed 's/"loss":/ /g; s/,/ /g' | awk '
    { a = $3; b = ""
      for (i = 4; i <= NF; i++) if ($i ~ /"step"/) b = $(i + 1)
      d = a > b ? a - b : b - a
      if (b == "" || d > 1e-3 * a) exit 1 }
    END { if (NR < 20) exit 1 }'; then
    ok "which differ from those of one part by rounding only"
else
    not_ok "losses of one part and of two ranks differ: $(tail -q -n 1 "$scratch/whole/metrics.jsonl" "$scratch/two/metrics.jsonl")"
fi
check "adapters in five parts" value train -q -t 1 --parts 5 --lora 4 -o "$scratch/lora_one"
check "and by three ranks" value mpi_train 3 --parts 5 --lora 4 -o "$scratch/lora_three"
same "are the same bytes" "$scratch/lora_one/adapter/adapter_model.safetensors" \
    "$scratch/lora_three/adapter/adapter_model.safetensors"
head -n 100 "$tiny/stories.jsonl" | tokenize -q -m "$tiny/config" --field text --end-token >"$scratch/documents"
language() {  # ARGUMENTS
    "$@" -m "$tiny/config" --from-scratch --objective lm --batch 16 --epochs 1 <"$scratch/documents"
}
check "a language model in two parts" language train -q -t 2 --parts 2 -o "$scratch/lm_one"
check "and by two ranks" language mpi_train 2 -o "$scratch/lm_two"
same "is the same bytes" "$scratch/lm_one/model.safetensors" "$scratch/lm_two/model.safetensors"

# A model whose layers are summed one by one, and a last batch of one document, of which one rank has nothing.
mkdir "$scratch/wide"
cp "$tiny/config"/tokenizer* "$scratch/wide/"
sed 's/"hidden_size": 32/"hidden_size": 192/; s/"intermediate_size": 64/"intermediate_size": 512/' "$tiny/config/config.json" \
    >"$scratch/wide/config.json"
head -n 9 "$tiny/stories.jsonl" | tokenize -q -m "$scratch/wide" --field text --end-token >"$scratch/few"
wide() {  # ARGUMENTS
    "$@" -m "$scratch/wide" --from-scratch --objective lm --batch 4 --epochs 2 <"$scratch/few"
}
check "a wider model in three parts" wide train -q -t 1 --parts 3 -o "$scratch/wide_one"
check "and by three ranks" wide mpi_train 3 -o "$scratch/wide_three"
same "is the same bytes" "$scratch/wide_one/model.safetensors" "$scratch/wide_three/model.safetensors"

said() {  # NAME CODE PATTERN COMMAND...: mpirun adds lines of its own, so those of train are counted
    said_name=$1 said_code=$2 said_pattern=$3
    shift 3
    code=0
    "$@" </dev/null >/dev/null 2>"$scratch/said" || code=$?
    if [ $code = "$said_code" ] && [ "$(grep -c '^vas-train' "$scratch/said")" = 1 ] &&
        grep -q "^vas-train.*$said_pattern" "$scratch/said"; then
        ok "$said_name"
    else
        not_ok "$said_name: code $code, expected $said_code: $(grep '^vas-train' "$scratch/said" | tr '\n' '|')"
    fi
}
said "more ranks than rollouts in a batch" 64 '3 ranks were started, but a batch has 2 rollouts' mpi_train 3 -m "$model" --batch 2 \
    -o "$scratch/none"
said "fewer parts than ranks" 64 'parts is 1, but 2 ranks' mpi_train 2 -m "$model" --parts 1 -o "$scratch/none"

# ---- killed ----

rank_process() {  # MPIRUN RANK: its process
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue
        after=${line##*) }
        set -- "$1" "$2" $after
        [ "$4" = "$1" ] || continue
        tr '\0' '\n' <"${stat%stat}environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$2" && echo "${line%% *}" && return
    done
}
long() {  # ARGUMENTS
    "$@" -m "$model" --batch 16 --epochs 30 --checkpoint-every 8 <"$scratch/targets"
}
check "a longer training" long train -q -t 1 --parts 2 -o "$scratch/long"
for victim in 0 1 mpirun; do
    rm -rf "$scratch/killed"
    mpirun --allow-run-as-root --bind-to none --oversubscribe -n 2 "$scratch/bin/train" -q -t 1 -m "$model" --batch 16 --epochs 30 \
        --checkpoint-every 8 -o "$scratch/killed" <"$scratch/targets" >/dev/null 2>&1 &
    pid=$!
    test_pids="${test_pids:-} $pid"
    wait_for "$scratch/killed/checkpoint.safetensors"
    if [ $victim = mpirun ]; then
        kill -TERM $pid
    else
        kill -KILL "$(rank_process $pid $victim)"
    fi
    code=0
    wait $pid || code=$?
    [ $code != 0 ] && ok "the job ends with $victim" || not_ok "the job goes on without $victim"
    [ -f "$scratch/killed/checkpoint.safetensors" ] && ok "and leaves a checkpoint" || not_ok "$victim: no checkpoint"
    if [ $victim = 0 ]; then
        check "one process goes on" long train -q -t 1 --parts 2 -o "$scratch/killed"
    else
        check "two ranks go on" long mpi_train 2 -o "$scratch/killed"
    fi
    same "to the same bytes" "$scratch/long/model.safetensors" "$scratch/killed/model.safetensors"
done

# ---- a store ----

store_run() {  # NAME TRAIN...: value-target and a training as workers of a store of their own; $scratch/NAME.digest
    db=$scratch/$1.db name=$1
    shift
    VAS_STORE=ipc://$db.sock
    export VAS_STORE
    store serve -q --db "$db" &
    store_pid=$!
    test_pids="${test_pids:-} $store_pid"
    tokenize -q -m "$model" --split train "$tiny/prompts.jsonl" && rollout -q -m "$model" -n 2 --split train --max-new-tokens 32 &&
        reward -q --name kind --lexicon pipelines/kind.txt --split train
    timeout 120 value-target -q --run kind --reward kind &
    targets=$!
    "$@"
    wait $targets
    kill $store_pid
    wait $store_pid
    unset VAS_STORE
    store digest --db "$db" >"$scratch/$name.digest"
}
trains() {
    store status --db "$db" | awk '$1 == "train" && $4 > 0 { found = 1 } END { exit !found }'
}
by_ranks() {  # the first try loses a rank once there is a checkpoint to resume from
    mpirun --allow-run-as-root --bind-to none --oversubscribe -n 2 "$scratch/bin/train" -q -t 1 -m "$model" --run kind --batch 16 \
        --epochs 4 --checkpoint-every 2 >/dev/null 2>&1 &
    pid=$!
    test_pids="$test_pids $pid"
    until_true trains
    kill -KILL "$(rank_process $pid 1)"
    wait $pid 2>/dev/null && not_ok "the job in a store goes on without rank 1"
    check "ranks resume in a store" mpi_train 2 -m "$model" --run kind --batch 16 --epochs 4 --checkpoint-every 2
}
by_one() {
    check "one process in a store" train -q -t 1 --parts 2 -m "$model" --run kind --batch 16 --epochs 4 --checkpoint-every 2
}
store_run one by_one
store_run ranks by_ranks
same "the stores hold the same content" "$scratch/one.digest" "$scratch/ranks.digest"
