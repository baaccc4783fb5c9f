#!/bin/sh
# align.sh - steers a frozen model towards a reward: prompts, rollouts, scores, value model, steered text, report.
#
#     pipelines/align.sh --model MODEL --prompts FILE --lexicon FILE|--exec COMMAND|--reward-model DIR [options]
#
#   -m, --model DIR|FILE    the base policy: Hugging Face directory or GGUF file
#   --prompts FILE          JSONL with "prompt" (and "split"), a text a line (*.txt), or with --format hh
#   --lexicon FILE          reward: valence words
#   --exec COMMAND          reward: a command that reads JSON lines and writes a number for each
#   --reward-model DIR      reward: a *ForSequenceClassification directory, encoder or decoder
#   --reward-label, --reward-join, --reward-truncate, --reward-quant    as reward's options without "reward-"
#   --reward NAME           its name (default: reward)
#   --scale X               multiplies the scores; -1 turns the reward round (default 1)
#   --work DIR              where store, value model and report go (default: vas-work)
#   --value-model DIR|FILE  what the value model starts from (default: the base policy)
#   --run NAME              name of the training run (default: the reward's)
#   --format, --field, --eval-fraction   as in tokenize (default --eval-fraction 0.1 where lines name no split; with 0 and
#                           no eval prompts it ends when the value model is trained)
#   --samples N             rollouts for each training prompt (default 8)
#   --eval-samples N        responses for each eval prompt and policy (default 8)
#   --base-samples N        the same for the base policy, which best-of-n needs more of (default 16)
#   --max-new-tokens N      (default 128)
#   --betas 'B ...'         strengths to evaluate (default '1 3 10')
#   --epochs N --batch N --lr X --refresh N --lambda X --checkpoint-every N    as in train and value-target
#   --seed N                (default 0)
#
# Relative paths are taken from the repository's top.
# Killed at any moment, the same command goes on where the store is.  What is there already is not computed again.
set -eu
cd "$(dirname "$0")/.."

model= prompts= reward=reward scale=1 work=vas-work value_model= run= format= field=
eval_fraction=0.1 samples=8 eval_samples=8 base_samples=16 max_new_tokens=128 betas='1 3 10'
epochs=2 batch=32 lr=1e-3 refresh=2 lambda=0.95 checkpoint_every=50 seed=0 reward_kind= reward_source=
reward_label= reward_join= reward_truncate= reward_quant=

usage() {
    echo "vas-align: $1" >&2
    echo "hint: see the head of pipelines/align.sh, or --help" >&2
    exit 64
}

while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    esac
    [ $# -ge 2 ] || usage "option \"$1\" is unknown or needs an argument"
    case $1 in
    -m | --model) model=$2 ;;
    --prompts) prompts=$2 ;;
    --lexicon | --exec) reward_kind=$1 reward_source=$2 ;;
    --reward-model) reward_kind=--model reward_source=$2 ;;
    --reward-label) reward_label=$2 ;;
    --reward-join) reward_join=$2 ;;
    --reward-truncate) reward_truncate=$2 ;;
    --reward-quant) reward_quant=$2 ;;
    --reward) reward=$2 ;;
    --scale) scale=$2 ;;
    --work) work=$2 ;;
    --value-model) value_model=$2 ;;
    --run) run=$2 ;;
    --format) format=$2 ;;
    --field) field=$2 ;;
    --eval-fraction) eval_fraction=$2 ;;
    --samples) samples=$2 ;;
    --eval-samples) eval_samples=$2 ;;
    --base-samples) base_samples=$2 ;;
    --max-new-tokens) max_new_tokens=$2 ;;
    --betas) betas=$2 ;;
    --epochs) epochs=$2 ;;
    --batch) batch=$2 ;;
    --lr) lr=$2 ;;
    --refresh) refresh=$2 ;;
    --lambda) lambda=$2 ;;
    --checkpoint-every) checkpoint_every=$2 ;;
    --seed) seed=$2 ;;
    *) usage "unknown option \"$1\"" ;;
    esac
    shift 2
done
[ -n "$model" ] || usage "--model is missing"
[ -n "$prompts" ] || usage "--prompts is missing"
[ -n "$reward_kind" ] || usage "a reward is missing: --lexicon FILE, --exec COMMAND or --reward-model DIR"
value_model=${value_model:-$model}
run=${run:-$reward}

pipelines/setup.sh >&2
mkdir -p "$work"
work=$(cd "$work" && pwd)
. pipelines/lib.sh

score() {  # score NAME [OPTIONS]: what follows 'reward' is the same for every use
    score_name=$1
    shift
    "$score_name" reward reward --name "$reward" "$reward_kind" "$reward_source" --scale "$scale" \
        ${reward_label:+--label "$reward_label"} ${reward_join:+--join "$reward_join"} \
        ${reward_truncate:+--truncate "$reward_truncate"} ${reward_quant:+--quant "$reward_quant"} "$@"
}

store_start
say "store $work/store.db"
foreground tokenize tokenize -m "$model" ${format:+--format "$format"} ${field:+--field "$field"} --eval-fraction "$eval_fraction" "$prompts"
eval_prompts=$(store status --db "$work/store.db" | awk '$1 == "tokenize" && $3 == "eval" { print $4 }')
case $eval_prompts,$eval_fraction in
,0 | ,0.0) ;;
,*)
    say "no prompt is in the split eval, so nothing could be compared at the end"
    echo "hint: give more prompts, --eval-fraction 0.5, lines with \"split\": \"eval\", or --eval-fraction 0 to train only" >&2
    exit 65 ;;
esac

say "sampling $samples rollouts a prompt, scoring them, training the value model \"$run\""
worker rollout rollout -m "$model" -n "$samples" --split train --max-new-tokens "$max_new_tokens" --seed "$seed"
score worker --split train --follow
worker value-target value-target --run "$run" --reward "$reward" --lambda "$lambda" --refresh "$refresh"
foreground train train -m "$value_model" --run "$run" --epochs "$epochs" --batch "$batch" --lr "$lr" --refresh "$refresh" \
    --checkpoint-every "$checkpoint_every" --seed "$seed" -o "$work/value-$run"
workers_stop
if [ -z "$eval_prompts" ]; then
    say "value model: $work/value-$run"
    exit 0
fi

say "sampling the eval prompts: base policy, then beta $betas"
foreground rollout rollout -m "$model" -n "$base_samples" --split eval --max-new-tokens "$max_new_tokens" --seed "$seed"
for beta in $betas; do
    foreground decode decode -m "$model" --value "$work/value-$run:$beta" --policy "$run beta=$beta" --split eval -n "$eval_samples" \
        --max-new-tokens "$max_new_tokens" --seed "$seed"
done
score foreground --split eval

report --db "$work/store.db" --reward "$reward" --split eval -o "$work/report.html"
say "store:  $work/store.db"
say "value model: $work/value-$run"
say "report: $work/report.html"
