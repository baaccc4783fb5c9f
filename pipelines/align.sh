#!/bin/sh
# align.sh - steers a frozen model towards a reward: prompts, rollouts, scores, value model, steered text, report.
#
#     pipelines/align.sh --model MODEL --prompts FILE --lexicon FILE|--exec COMMAND [options]
#
#   --model DIR|FILE        the base policy: Hugging Face directory or GGUF file
#   --prompts FILE          JSONL with "prompt" (and "split"), a text a line (*.txt), or with --format hh
#   --lexicon FILE          reward: valence words
#   --exec COMMAND          reward: a command that reads JSON lines and writes a number for each
#   --reward NAME           its name (default: reward)
#   --scale X               multiplies the scores; -1 turns the reward round (default 1)
#   --work DIR              where store, value model and report go (default: vas-work)
#   --value-model DIR|FILE  what the value model starts from (default: the base policy)
#   --run NAME              name of the training run (default: the reward's)
#   --format, --field, --eval-fraction   as in tokenize (default --eval-fraction 0.1 where lines name no split)
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

model= prompts= reward=reward reward_options= scale=1 work=vas-work value_model= run= format= field=
eval_fraction=0.1 samples=8 eval_samples=8 base_samples=16 max_new_tokens=128 betas='1 3 10'
epochs=2 batch=32 lr=1e-3 refresh=2 lambda=0.95 checkpoint_every=50 seed=0 reward_kind= reward_source=

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
    --model) model=$2 ;;
    --prompts) prompts=$2 ;;
    --lexicon | --exec) reward_kind=$1 reward_source=$2 ;;
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
[ -n "$reward_kind" ] || usage "a reward is missing: --lexicon FILE or --exec COMMAND"
value_model=${value_model:-$model}
run=${run:-$reward}

pipelines/setup.sh >&2
mkdir -p "$work"
work=$(cd "$work" && pwd)
. pipelines/lib.sh

score() {  # score NAME [OPTIONS]: what follows 'reward' is the same for every use
    score_name=$1
    shift
    "$score_name" reward reward --name "$reward" "$reward_kind" "$reward_source" --scale "$scale" "$@"
}

store_start
say "store $work/store.db"
foreground tokenize tokenize -m "$model" ${format:+--format "$format"} ${field:+--field "$field"} --eval-fraction "$eval_fraction" "$prompts"

say "sampling $samples rollouts a prompt, scoring them, training the value model \"$run\""
worker rollout rollout -m "$model" -n "$samples" --split train --max-new-tokens "$max_new_tokens" --seed "$seed"
score worker --split train --follow
worker value-target value-target --run "$run" --reward "$reward" --lambda "$lambda" --refresh "$refresh"
foreground train train -m "$value_model" --run "$run" --epochs "$epochs" --batch "$batch" --lr "$lr" --refresh "$refresh" \
    --checkpoint-every "$checkpoint_every" --seed "$seed" -o "$work/value-$run"
workers_stop

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
