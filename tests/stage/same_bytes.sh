#!/bin/sh
# Goal: rollouts, scores, targets, checkpoints and steered responses have the same bytes whatever the number of workers, their
# batch, their threads and the order in which they start; with each set of kernels.
set -u
. tests/lib.sh
tiny_model

grep '"train"' "$tiny/prompts.jsonl" | head -n 12 >"$scratch/prompts.jsonl"
grep '"eval"' "$tiny/prompts.jsonl" | head -n 3 >>"$scratch/prompts.jsonl"

# What ends by itself is waited for, what follows is stopped.
copies() {  # copies COUNT COMMAND...
    copies_count=$1
    shift
    while [ $copies_count -gt 0 ]; do
        "$@" 2>>"$scratch/log" &
        pids="$pids $!"
        copies_count=$((copies_count - 1))
    done
}

all() {  # all PID...: wait for them, succeed if all did
    all_code=0
    for pid; do
        wait "$pid" || all_code=1
    done
    return $all_code
}

start() {  # start STAGE: its workers
    case $1 in
    rollout) copies "$workers" rollout -m "$tiny/base" -n 4 --max-new-tokens 24 --batch "$batch" -t "$threads" --follow ;;
    reward) copies "$workers" reward --name kind --lexicon pipelines/kind.txt --batch "$batch" --follow ;;
    targets) copies "$workers" value-target --run kind --reward kind -t "$threads" ;;
    train) copies 1 train -m "$tiny/base" --run kind --batch 7 --epochs 2 --checkpoint-every 3 -t "$threads" -o "$scratch/$name" ;;
    esac
}

# Leaves $scratch/NAME.digest and the value model in $scratch/NAME.
pipeline() {  # pipeline NAME WORKERS BATCH THREADS STAGE...: in which order they start
    name=$1 workers=$2 batch=$3 threads=$4
    shift 4
    store_up "$scratch/$name.db"
    tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl"
    followers= enders=
    for stage; do
        pids=
        start "$stage"
        case $stage in
        rollout | reward) followers="$followers $pids" ;;
        *) enders="$enders $pids" ;;
        esac
    done
    test_pids="$store_pid $followers $enders"
    all $enders || echo "training failed" >>"$scratch/$name.wrong"
    pids=
    copies "$workers" decode -m "$tiny/base" --value kind:5 -n 3 --max-new-tokens 24 --batch "$batch" -t "$threads"
    test_pids="$store_pid $followers $pids"
    all $pids && reward -q --name kind --lexicon pipelines/kind.txt || echo "decoding failed" >>"$scratch/$name.wrong"
    kill -TERM $followers
    all $followers
    store_down
    store digest --db "$scratch/$name.db" >"$scratch/$name.digest"
    cat "$scratch/$name/model.safetensors" >>"$scratch/$name.digest"
    rm -f "$scratch/$name.db"*
}

turn() {  # the n-th order of the stages
    case $(($1 % 4)) in
    0) echo rollout reward targets train ;;
    1) echo train targets reward rollout ;;
    2) echo reward train rollout targets ;;
    3) echo targets rollout train reward ;;
    esac
}

pipeline one 1 1 1 rollout reward targets train
[ -e "$scratch/one/model.safetensors" ] && ok "one worker of each kind gives a value model" ||
    not_ok "one worker of each kind: $(tail -n 1 "$scratch/log")"
n=0
for workers in 1 2 4 8; do
    for batch in 1 7 32; do
        for threads in 1 2; do
            n=$((n + 1))
            [ $n -gt 1 ] || continue  # that was "one"
            pipeline "other$n" $workers $batch $threads $(turn $n)
            same "$workers workers, batch $batch, $threads threads" "$scratch/one.digest" "$scratch/other$n.digest"
        done
    done
done

for kernels in avx2 portable; do
    VAS_KERNELS=$kernels
    export VAS_KERNELS
    pipeline "$kernels-one" 1 1 1 $(turn 1)
    pipeline "$kernels-four" 4 32 2 $(turn 2)
    same "$kernels kernels: 1 worker, batch 1, 1 thread; 4 workers, batch 32, 2 threads" "$scratch/$kernels-one.digest" \
        "$scratch/$kernels-four.digest"
done
if cat "$scratch"/*.wrong 2>/dev/null; then not_ok "all workers end well: $(tail -n 1 "$scratch/log")"; else ok \
    "all workers end well"; fi
