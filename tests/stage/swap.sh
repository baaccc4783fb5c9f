#!/bin/sh
# Goal: in a live pipeline the reward, lambda, the sampling options, the base policy and the value model are changed by starting a
# worker with another key; old and new live side by side, both complete, and the store holds what it holds when all of it is done
# one after the other.  A worker that means something else by a name is refused at once.
set -u
. tests/lib.sh
tiny_model

{ grep '"train"' "$tiny/prompts.jsonl" | head -n 20; grep '"eval"' "$tiny/prompts.jsonl"; } >"$scratch/prompts.jsonl"
model export -q -m "$tiny/base" -o "$scratch/rounded.gguf" --type q8_0
sed 's/^happy.*/happy	-1/' pipelines/kind.txt >"$scratch/other.txt"

sample="rollout -m $tiny/base -n 4 --max-new-tokens 24"
sample_hot="$sample --policy hot --temperature 1.5"
sample_rounded="rollout -m $scratch/rounded.gguf --policy rounded -n 4 --max-new-tokens 24"
score="reward --name kind --lexicon pipelines/kind.txt"
score_unkind="reward --name unkind --lexicon pipelines/kind.txt --scale -1"
steer="decode -m $tiny/base --max-new-tokens 24 -n 2 --value"

learn() {  # learn PLACE RUN REWARD LAMBDA
    value-target --run "$2" --reward "$3" --lambda "$4" &
    train -m "$tiny/base" --run "$2" --batch 8 --epochs 2 -o "$scratch/$1-$2" && wait $!
}

# ---- one after the other ----

store_up "$scratch/quiet.db"
{ tokenize -m "$tiny/base" "$scratch/prompts.jsonl" && $sample && $score && learn quiet kind kind 0.95 && $steer kind:5 &&
    $score_unkind && learn quiet unkind unkind 0.95 && learn quiet short kind 0.5 && $sample_hot && $sample_rounded &&
    $steer unkind:5 &&
    $score && $score_unkind; } 2>"$scratch/quiet.err" && ok "one after the other completes" ||
    not_ok "one after the other: $(tail -n 1 "$scratch/quiet.err")"
store_down
test_pids=

# ---- live ----

store_up "$scratch/live.db"
also() {  # also COMMAND...: beside the others
    "$@" 2>>"$scratch/live.err" &
    test_pids="$test_pids $!"
}

finish() {  # finish NAME PID...: all end well
    finish_name=$1 finish_code=0
    shift
    for pid; do
        wait "$pid" || finish_code=$?
    done
    [ $finish_code = 0 ] && ok "$finish_name" || not_ok "$finish_name: code $finish_code: $(tail -n 1 "$scratch/live.err")"
}

tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl"
also $sample --follow
followers=$!
also $score --follow
followers="$followers $!"
also learn live kind kind 0.95
old=$!
also $score_unkind --follow
new=$!
also learn live unkind unkind 0.95
runs="$old $!"
also learn live short kind 0.5
runs="$runs $!"
also $sample_hot --follow
new="$new $!"
also $sample_rounded --follow
new="$new $!"
finish "runs with the old reward and lambda and with new ones complete" $runs
also $steer kind:5
decoders=$!
also $steer unkind:5
finish "responses steered by both value models" $decoders $!
kill -0 $followers $new && ok "workers of old and new keys are all there" || not_ok "some workers of old and new keys have left"
check "rollouts of the new options are complete" $sample_hot
check "rollouts of the new base policy are complete" $sample_rounded
check "scores of the old reward are complete" $score
check "scores of the new reward are complete" $score_unkind

store digest --db "$scratch/quiet.db" >"$scratch/quiet.digest"
store digest --db "$scratch/live.db" >"$scratch/live.digest"
same "the store holds what it holds when all is done one after the other" "$scratch/quiet.digest" "$scratch/live.digest"
for run in kind unkind short; do
    check "the value model \"$run\" has the same bytes" diff -r "$scratch/quiet-$run" "$scratch/live-$run"
done

# ---- names keep what they mean ----

refused "other sampling options" 78 'policy "base" has temperature 1, this worker has 0.5' $sample --temperature 0.5
refused "another base policy" 78 'policy "base" has model ' rollout -m "$scratch/rounded.gguf" -n 4 --max-new-tokens 24
mkdir "$scratch/stops"
cp "$tiny"/base/* "$scratch/stops"
echo '{"eos_token_id": [0, 40]}' >"$scratch/stops/generation_config.json"
refused "other stop tokens" 78 'policy "base" has no stops, this worker has \[0,40\]' rollout -m "$scratch/stops" -n 4 \
    --max-new-tokens 24
refused "other stop tokens of a steered policy" 78 'policy "vas kind:5" has no stops, this worker has \[0,40\]' decode \
    -m "$scratch/stops" --max-new-tokens 24 -n 2 --value "$scratch/live-kind:5" --policy 'vas kind:5'
check "under a name of its own it samples" rollout -m "$scratch/stops" --policy stops -n 1 --max-new-tokens 4
refused "and that name means these stops" 78 'policy "stops" has stops \[0,40\], this worker has none' rollout -m "$tiny/base" \
    --policy stops -n 1 --max-new-tokens 4
refused "another scale of a reward" 78 'reward "unkind" has scale -1, this worker has 2' reward --name unkind \
    --lexicon pipelines/kind.txt --scale 2
refused "another lexicon" 78 'reward "kind" has ' reward --name kind --lexicon "$scratch/other.txt"
refused "another lambda" 78 'run "kind" has lambda 0.95, this worker has 0.5' value-target --run kind --reward kind --lambda 0.5
refused "the rewards of another run" 78 'run "kind" has reward "kind", this worker has "unkind"' value-target --run kind \
    --reward unkind
refused "another learning rate" 78 'run "kind" has learning_rate' train -m "$tiny/base" --run kind --batch 8 --epochs 2 --lr 0.5
refused "another model to start from" 78 'run "kind" has init' train -m "$scratch/live-short" --run kind --batch 8 --epochs 2
refused "another value model" 78 'policy "vas kind:5" has values\[0\].model ' $steer "$scratch/live-unkind:5" --policy 'vas kind:5'
refused "another strength" 78 'policy "vas kind:5" has values\[0\].beta 5, this worker has 4' $steer "$scratch/live-kind:4" \
    --policy 'vas kind:5'
kill -0 $followers $new && ok "nobody minds the refused" || not_ok "some workers have left"

kill -TERM $followers $new
for pid in $followers $new; do
    code=0
    wait "$pid" || code=$?
    [ $code = 75 ] && ok "a worker leaves when asked" || not_ok "a worker that is asked to leave says $code, expected 75"
done
store_down
