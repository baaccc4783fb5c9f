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
#   --format, --field, --chat, --eval-fraction   as in tokenize (default --eval-fraction 0.1 where lines name no split; with 0
#                           and no eval prompts it ends when the value model is trained)
#   --samples N             rollouts for each training prompt (default 8)
#   --eval-samples N        responses for each eval prompt and policy (default 8)
#   --base-samples N        the same for the base policy, which best-of-n needs more of (default 16)
#   --max-new-tokens N      (default 128)
#   --betas 'B ...'         strengths to evaluate (default '1 3 10')
#   --epochs N --batch N --lr X --schedule NAME --refresh N --lambda X --checkpoint-every N    as in train and value-target
#   --seed N                (default 0)
#
# Relative paths are taken from the repository's top.  Lines of the prompts that cannot be used are named and left out; that there
# were some is said again at the end, and the exit code is 0 all the same.
# Killed at any moment, the same command goes on where the store is.  What is there already is not computed again.
set -eu
cd "$(dirname "$0")/.."

. pipelines/align_options.sh
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) help; exit 0 ;;
    esac
    [ $# -ge 2 ] || usage "option \"$1\" is unknown or needs an argument"
    option_take "$1" "$2"
    shift 2
done
options_settle

pipelines/setup.sh >&2
. pipelines/lib.sh
options_check
mkdir -p "$work" || exit 74
work=$(cd "$work" && pwd)

store_is_new=
[ -e "$work/store.db" ] || store_is_new=1
store_start
say "store $work/store.db"
foreground_or 65 tokenize tokenize -m "$model" ${format:+--format "$format"} ${field:+--field "$field"} ${chat:+--chat "$chat"} \
    --eval-fraction "$eval_fraction" "$prompts"
prompts_check "$foreground_code" --db "$work/store.db"
if [ -n "$lacks" ]; then
    if [ -n "$store_is_new" ] && [ -z "$worked_on" ]; then  # then the same command may give the prompts other splits
        store_stop
        rm -f "$work/store.db" "$work/store.db-wal" "$work/store.db-shm"
        lacks_say
    else
        lacks_say kept
    fi
    exit 65
fi

say "sampling $samples rollouts a prompt, scoring them, training the value model \"$run\""
worker rollout rollout -m "$model" -n "$samples" --split train --max-new-tokens "$max_new_tokens" --seed "$seed"
with_reward worker reward reward --split train --follow
worker value-target value-target --run "$run" --reward "$reward" --lambda "$lambda" --refresh "$refresh"
foreground train train -m "$value_model" --run "$run" --epochs "$epochs" --batch "$batch" --lr "$lr" --refresh "$refresh" \
    --checkpoint-every "$checkpoint_every" --schedule "$schedule" --seed "$seed" -o "$work/value-$run"
workers_stop
if [ -z "$eval_prompts" ]; then
    say "value model: $work/value-$run"
    [ -z "$left_out" ] || say "$left_out"
    exit 0
fi

say "sampling the eval prompts: base policy, then beta $betas"
foreground rollout rollout -m "$model" -n "$base_samples" --split eval --max-new-tokens "$max_new_tokens" --seed "$seed"
for beta in $betas; do
    foreground decode decode -m "$model" --value "$work/value-$run:$beta" --policy "$run beta=$beta" --split eval \
        -n "$eval_samples" \
        --max-new-tokens "$max_new_tokens" --seed "$seed"
done
with_reward foreground reward reward --split eval

report --db "$work/store.db" --reward "$reward" --split eval -o "$work/report.html"
say "store:  $work/store.db"
say "value model: $work/value-$run"
say "report: $work/report.html"
[ -z "$left_out" ] || say "$left_out"
