#!/bin/sh
# Goal: a run leaves out the rollouts that its model has no room for; adapters are trained, stopped, killed, resumed,
# and read as a model.
set -u
. tests/lib.sh
tiny_model

# ---- a run whose value model has less room than the rollouts need ----

head -n 12 "$tiny/prompts.jsonl" >"$scratch/prompts.jsonl"
db=$scratch/s.db
store_up "$db"
tokenize -q -m "$tiny/base" --split train "$scratch/prompts.jsonl" &&
    rollout -q -m "$tiny/base" -n 4 --split train --max-new-tokens 24 &&
    reward -q --name kind --lexicon pipelines/kind.txt --split train
check "rollouts are scored" test -f "$db"

# The context lets about half of them in.
mkdir "$scratch/short"
cp "$tiny/base/tokenizer.json" "$tiny/base/tokenizer_config.json" "$scratch/short/"
sed 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 55/' "$tiny/base/config.json" >"$scratch/short/config.json"
cp "$tiny/base/model.safetensors" "$scratch/short/"

short_run() {  # NAME LAMBDA: value-target and train together; what train said is in $scratch/NAME.err
    timeout 60 value-target -q --run "$1" --reward kind --lambda "$2" &
    targets=$!
    code=0
    timeout 60 train -m "$scratch/short" --run "$1" --batch 8 --epochs 1 --warmup 2 -o "$scratch/$1" 2>"$scratch/$1.err" || code=$?
    wait "$targets"
}
short_run whole_returns 1
left_out=$(sed -n 's/.*left_out=\([0-9]*\).*/\1/p' "$scratch/whole_returns.err")
[ $code = 0 ] && ok "a run with rollouts that are too long ends well" ||
    not_ok "a run with rollouts that are too long says $code: $(tail -n 1 "$scratch/whole_returns.err")"
[ "${left_out:-0}" -gt 0 ] && [ "$left_out" -lt 48 ] && ok "it says how many were left out" ||
    not_ok "it says that '$left_out' of 48 were left out"
check "and gives a value model" test -s "$scratch/whole_returns/model.safetensors"
if command -v sqlite3 >/dev/null; then
    last_rate=$(sqlite3 "$db" "SELECT json_extract(numbers, '$.learning_rate') FROM metric WHERE subject = 'whole_returns'
        ORDER BY step DESC LIMIT 1")
    [ "$(printf '%.6f' "$last_rate")" = 0.000100 ] && ok "its learning rate falls to a tenth" ||
        not_ok "its last learning rate is $last_rate"
else
    echo "skip its learning rate falls to a tenth: there is no sqlite3 program"
fi
short_run lambda_returns 0.9
[ $code = 0 ] && ok "so does one whose targets need values" ||
    not_ok "with lambda 0.9 it says $code: $(tail -n 1 "$scratch/lambda_returns.err")"
failed=$(store status --db "$db" | awk '$1 == "value-target" && $2 == "lambda_returns" { print $5 }')
[ "$failed" = "$left_out" ] && ok "which keeps the same rollouts as failures" ||
    not_ok "which keeps $failed failures, expected $left_out"

# No room for any of the last batch, nor for any rollout at all: the run still ends.
sed 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 12/' "$tiny/base/config.json" >"$scratch/short/config.json"
short_run nothing_fits 1
[ $code = 65 ] && grep -q 'nothing to train on' "$scratch/nothing_fits.err" && ok "a run in which no rollout fits is refused" ||
    not_ok "a run in which no rollout fits says $code: $(tail -n 1 "$scratch/nothing_fits.err")"
check "and gives no value model" test ! -e "$scratch/nothing_fits/model.safetensors"
grep -q 'left_out=48' "$scratch/nothing_fits.err" && ok "and says that all 48 were left out" ||
    not_ok "and says $(tail -n 1 "$scratch/nothing_fits.err")"

# Scores that all fail leave nothing to train on; once they can be had, the same run is trained.
echo 'while read -r _; do echo nan; done' >"$scratch/scorer"
failing() { reward -q --name mended --exec "sh $scratch/scorer" --split train; }
failing 2>"$scratch/failing.err"
mended_run() {
    value-target -q --run mended --reward mended --lambda 1 &
    targets=$!
    code=0
    timeout 60 train -m "$tiny/base" --run mended --batch 8 --epochs 1 -o "$scratch/mended" 2>"$scratch/mended.err" || code=$?
    wait "$targets"
}
mended_run
[ $code = 65 ] && grep -q 'nothing to train on' "$scratch/mended.err" && grep -q "'store retry'" "$scratch/mended.err" &&
    ok "a run whose scores all failed is refused" ||
    not_ok "a run whose scores all failed says $code: $(tail -n 1 "$scratch/mended.err")"
report --db "$db" --reward mended --split train >"$scratch/report" 2>&1
grep -q "before it 'store retry'" "$scratch/report" && ok "the report says what to do" ||
    not_ok "the report says $(tail -n 1 "$scratch/report")"
echo 'while read -r _; do echo 1; done' >"$scratch/scorer"
store retry -q --db "$db" --stage reward && failing
mended_run
[ $code = 0 ] && check "and trained once they can be had" test -s "$scratch/mended/model.safetensors" ||
    not_ok "once they can be had it says $code: $(tail -n 1 "$scratch/mended.err")"
store_down

# ---- adapters ----

tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl" | rollout -q -m "$tiny/base" -n 4 --max-new-tokens 24 >"$scratch/rollouts"
reward -q --name kind --lexicon pipelines/kind.txt <"$scratch/rollouts" >"$scratch/scored"
value-target -q <"$scratch/scored" >"$scratch/targets"
for scale in 1 100; do
    reward -q --name one --exec 'while read -r _; do echo 1; done' --scale $scale <"$scratch/rollouts" | value-target -q |
        train -m "$tiny/base" --batch 8 --epochs 1 -o "$scratch/scaled" 2>"$scratch/scale_$scale.err"
done
! grep -q 'away from the values' "$scratch/scale_1.err" && grep -q "'reward --scale'" "$scratch/scale_100.err" &&
    ok "targets that are far from all values are spoken of" ||
    not_ok "of scores a hundred times as large train says $(cat "$scratch/scale_100.err")"
train_lora() {  # NAME
    train -q -m "$tiny/base" --batch 8 --epochs 60 --checkpoint-every 5 --lora 4 -o "$scratch/$1" <"$scratch/targets"
}
interrupt() {  # NAME SIGNAL: once some steps have been made; the exit code is in $code
    train -q -m "$tiny/base" --batch 8 --epochs 60 --checkpoint-every 5 --lora 4 -o "$scratch/$1" <"$scratch/targets" &
    pid=$!
    wait_for "$scratch/$1/checkpoint.safetensors"
    kill "-$2" $pid
    code=0
    wait $pid 2>/dev/null || code=$?
}
train_lora whole
interrupt stopped TERM
[ $code = 75 ] && ok "a training of adapters that is stopped says 75" ||
    not_ok "a training of adapters that is stopped says $code, expected 75"
refused "its checkpoint is no other rank's" 78 'was trained with lora "rank=4' \
    sh -c "train -q -m $tiny/base --batch 8 --epochs 60 --checkpoint-every 5 --lora 2 -o $scratch/stopped <$scratch/targets"
check "it can be started again" train_lora stopped
same "and gives the same adapters" "$scratch/whole/adapter/adapter_model.safetensors" \
    "$scratch/stopped/adapter/adapter_model.safetensors"
interrupt killed KILL
refused "nor of another optimiser's" 78 'begun with "lr=0.001", this one with "lr=0.01"' \
    sh -c "train -q -m $tiny/base --batch 8 --epochs 60 --checkpoint-every 5 --lora 4 --lr 1e-2 -o $scratch/killed <$scratch/targets"
check "a training of adapters that was killed can be started again" train_lora killed
same "and gives the same merged model" "$scratch/whole/model.safetensors" "$scratch/killed/model.safetensors"
same "and the same metrics, a line a step" "$scratch/whole/metrics.jsonl" "$scratch/killed/metrics.jsonl"

value-target -q --lambda 0 -m "$scratch/whole" <"$scratch/scored" >"$scratch/merged"
value-target -q --lambda 0 -m "$scratch/whole/adapter" <"$scratch/scored" >"$scratch/adapted"
same "the adapter's directory is the merged model" "$scratch/merged" "$scratch/adapted"
decode -q -m "$tiny/base" --value "$scratch/whole/adapter:3" --max-new-tokens 12 "One day, Mia the fox" >"$scratch/text"
check "and steers" test -s "$scratch/text"

# Two adapters of one base share its weights: the values are those of the merged models.
check "a second adapter of the base is trained" sh \
    -c "train -q -m $tiny/base --batch 8 --epochs 20 --lora 2 --lr 3e-3 -o $scratch/second <$scratch/targets"
steer_both() {  # NAME DIRECTORY DIRECTORY OPTION...: into $scratch/NAME
    both_name=$1 both_first=$2 both_second=$3
    shift 3
    decode -q -m "$tiny/base" --value "$both_first:3" --value "$both_second:-2" --greedy \
        --max-new-tokens 12 "$@" "$scratch/prompts.jsonl" >"$scratch/$both_name"
}
steer_both of_merged "$scratch/whole" "$scratch/second"
steer_both of_trunk "$scratch/whole/adapter" "$scratch/second/adapter" -v 2>"$scratch/of_trunk.err"
check "two adapters of one base steer" test -s "$scratch/of_trunk"
same "as their merged models do" "$scratch/of_merged" "$scratch/of_trunk"
[ "$(grep -c 'opened adapter.*trunk=' "$scratch/of_trunk.err")" = 2 ] &&
    [ "$(sed -n 's/.*opened adapter.*trunk=\([0-9a-f]*\).*/\1/p' "$scratch/of_trunk.err" | sort -u | wc -l)" = 1 ] &&
    ok "on one trunk" || not_ok "on other than one trunk: $(grep opened "$scratch/of_trunk.err")"
steer_both one_thread "$scratch/whole/adapter" "$scratch/second/adapter" --value-quant q8_0 --batch 1 -t 1
steer_both three_threads "$scratch/whole/adapter" "$scratch/second/adapter" --value-quant q8_0 --batch 32 -t 3
same "with a rounded trunk too, whatever the batch and the threads" "$scratch/one_thread" "$scratch/three_threads"
refused "an adapter is not adapted" 65 'is an adapter itself' train -m "$scratch/whole/adapter" --lora 2 -o "$scratch/twice"
cp -r "$tiny/base" "$scratch/kept"
refused "a base policy is not written over" 73 'kept" is the model that is read' \
    sh -c "train -m $scratch/kept --batch 8 --epochs 1 -o $scratch/kept <$scratch/targets"
same "and is as it was" "$tiny/base/model.safetensors" "$scratch/kept/model.safetensors"
mkdir "$scratch/shards"
echo '{"weight_map": {}}' >"$scratch/shards/model.safetensors.index.json"
refused "no value model is written where shards would be read instead" 73 'shards" has a model in several files' \
    sh -c "train -m $tiny/base --batch 8 --epochs 1 -o $scratch/shards <$scratch/targets"
refused "targets have names" 64 'lora-targets' train -m "$tiny/base" --lora 2 --lora-targets q,x -o "$scratch/none"
