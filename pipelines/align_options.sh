# align_options.sh - the options of align.sh and slurm/align.sh, as variables.
#
# Source it, call option_take for each option with its argument, then options_settle, and once the programs are in PATH
# options_check; prompts_check when the prompts are stored.

model= prompts= reward=reward scale=1 work=vas-work value_model= run= format= field= chat=
eval_fraction=0.1 samples=8 eval_samples=8 base_samples=16 max_new_tokens=128 betas='1 3 10'
epochs=2 batch=32 lr=1e-3 schedule=cosine refresh=2 lambda=0.95 checkpoint_every=50 seed=0 reward_kind= reward_source=
reward_label= reward_join= reward_truncate= reward_quant=

usage() {
    echo "vas-align: $1" >&2
    echo "hint: see the head of $0, or --help" >&2
    exit 64
}

help() {  # the head of the script
    sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"
}

option_take() {  # OPTION ARGUMENT
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
    --chat) chat=$2 ;;
    --eval-fraction) eval_fraction=$2 ;;
    --samples) samples=$2 ;;
    --eval-samples) eval_samples=$2 ;;
    --base-samples) base_samples=$2 ;;
    --max-new-tokens) max_new_tokens=$2 ;;
    --betas) betas=$2 ;;
    --epochs) epochs=$2 ;;
    --batch) batch=$2 ;;
    --lr) lr=$2 ;;
    --schedule) schedule=$2 ;;
    --refresh) refresh=$2 ;;
    --lambda) lambda=$2 ;;
    --checkpoint-every) checkpoint_every=$2 ;;
    --seed) seed=$2 ;;
    *) usage "unknown option \"$1\"" ;;
    esac
}

options_settle() {
    [ -n "$model" ] || usage "--model is missing"
    [ -n "$prompts" ] || usage "--prompts is missing"
    [ -n "$reward_kind" ] || usage "a reward is missing: --lexicon FILE, --exec COMMAND or --reward-model DIR"
    value_model=${value_model:-$model}
    run=${run:-$reward}
}

# Asks the program whether it would take the value: it reads its options up to --help.
option_check() {  # OPTION VALUE PROGRAM ITS-OPTION
    check_said=$("$3" "$4" "$2" --help 2>&1 >/dev/null) ||
        usage "$(printf '%s\n' "$check_said" | sed "1s/^vas-$3: $4/$1/;q")"
}

options_check() {  # before anything is made
    option_check --format "${format:-jsonl}" tokenize --format
    option_check --chat "${chat:-hh}" tokenize --chat
    option_check --eval-fraction "$eval_fraction" tokenize --eval-fraction
    option_check --samples "$samples" rollout --samples
    option_check --base-samples "$base_samples" rollout --samples
    option_check --eval-samples "$eval_samples" decode --samples
    option_check --max-new-tokens "$max_new_tokens" rollout --max-new-tokens
    option_check --seed "$seed" rollout --seed
    option_check --reward "$reward" reward --name
    option_check --scale "$scale" reward --scale
    option_check --reward-truncate "${reward_truncate:-left}" reward --truncate
    option_check --reward-quant "${reward_quant:-bf16}" reward --quant
    option_check --run "$run" train --run
    option_check --lambda "$lambda" value-target --lambda
    option_check --refresh "$refresh" train --refresh
    option_check --epochs "$epochs" train --epochs
    option_check --batch "$batch" train --batch
    option_check --lr "$lr" train --lr
    option_check --schedule "$schedule" train --schedule
    option_check --checkpoint-every "$checkpoint_every" train --checkpoint-every
    for beta in $betas; do
        option_check --betas "$beta" decode --beta
        option_check '--run with " beta=B"' "$run beta=$beta" decode --policy
    done
}

with_reward() {  # COMMAND...: runs it with the options of reward that say which reward
    "$@" --name "$reward" "$reward_kind" "$reward_source" --scale "$scale" \
        ${reward_label:+--label "$reward_label"} ${reward_join:+--join "$reward_join"} \
        ${reward_truncate:+--truncate "$reward_truncate"} ${reward_quant:+--quant "$reward_quant"}
}

prompts_of() {  # SPLIT: how many $status has, nothing for none
    printf '%s\n' "$status" | awk -v split_name="$1" '$1 == "tokenize" && $3 == split_name { print $4 }'
}

# Whether there is something to train on and to compare, once tokenize has ended with CODE, 0 or 65.  Sets eval_prompts; left_out, a
# line when it left some out; worked_on, when the store has more than prompts; lacks, a line when the pipeline cannot go on.
prompts_check() {  # CODE [OPTIONS OF STORE STATUS]
    tokenize_code=$1
    shift
    status=$(store status "$@")
    train_prompts=$(prompts_of train) eval_prompts=$(prompts_of eval)
    worked_on=$(printf '%s\n' "$status" | grep -E '^(rollout|reward|value-target|train) ' || :)
    left_out= lacks= lacks_hint=
    [ "$tokenize_code" = 0 ] || left_out="some lines of \"$prompts\" could not be used and were left out"
    if [ "$tokenize_code$train_prompts$eval_prompts" = 65 ]; then
        lacks="no prompt of \"$prompts\" could be used"
    elif [ -z "$train_prompts" ]; then
        lacks="no prompt is in the split train, so there is nothing to learn from"
        lacks_hint='give more prompts, a smaller --eval-fraction, or lines with "split": "train"'
    elif [ -z "$eval_prompts" ] && [ "$eval_fraction" != 0 ] && [ "$eval_fraction" != 0.0 ]; then
        lacks="no prompt is in the split eval, so nothing could be compared at the end"
        lacks_hint='give more prompts, --eval-fraction 0.5, lines with "split": "eval", or --eval-fraction 0 to train only'
    fi
}

lacks_say() {  # [kept]: the store has the prompts now
    echo "vas-align: $lacks" >&2
    [ -n "$lacks_hint" ] || return 0
    echo "hint: $lacks_hint" >&2
    [ $# = 0 ] || echo "hint: prompts that are stored keep their split: another --work gives them another" >&2
}
