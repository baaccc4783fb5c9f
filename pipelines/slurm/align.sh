#!/bin/sh
# align.sh - pipelines/align.sh as Slurm jobs: submits them with what each waits for, and returns.
#
#     pipelines/slurm/align.sh [options of pipelines/align.sh] [options]
#
#   --workers N         tasks of each job array: of those that sample, and of the one that scores (default 4)
#   --ranks N           ranks that train one model over MPI, each on a node or a share of one (default 1)
#   --cpus N            processors of a task that samples or trains (default 2)
#   --listen ENDPOINT   of the store (default: a port of the node where it runs, with keys that are made in WORK/keys)
#   --sbatch 'OPTIONS'  for every job, '--partition=long --time=4:00:00' (or sbatch's environment variables)
#   --wait              return when the last job has ended, with its exit code
#
# --work must be a directory that all nodes see.  Killed workers and lost nodes are made good by Slurm; when a job fails for good,
# the others are cancelled.  The same command again goes on where the store is.  Logs are in WORK/log.
set -eu
cd "$(dirname "$0")/../.."

. pipelines/align_options.sh
workers=4 ranks=1 cpus=2 listen= sbatch_options= wait=
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) help; exit 0 ;;
    --wait) wait=--wait; shift; continue ;;
    esac
    [ $# -ge 2 ] || usage "option \"$1\" is unknown or needs an argument"
    case $1 in
    --workers) workers=$2 ;;
    --ranks) ranks=$2 ;;
    --cpus) cpus=$2 ;;
    --listen) listen=$2 ;;
    --sbatch) sbatch_options=$2 ;;
    *) option_take "$1" "$2" ;;
    esac
    shift 2
done
options_settle
case $workers,$ranks,$cpus in
*[!0-9,]* | ,* | *,,* | *, | 0,* | *,0,* | *,0)
    usage "--workers, --ranks and --cpus are \"$workers\", \"$ranks\" and \"$cpus\", must be whole numbers from 1"
    ;;
esac
command -v sbatch >/dev/null || { echo "vas-align: sbatch is not here: this is no machine of a Slurm cluster" >&2; exit 69; }

make=
[ "$ranks" = 1 ] || make=MPI=1
pipelines/setup.sh $make >&2
PATH=$(cd "${BIN:-bin}" && pwd):$PATH
export PATH
options_check
mkdir -p "$work/log"
work=$(cd "$work" && pwd)
if [ -z "$listen" ] && [ ! -d "$work/keys" ]; then
    mkdir -m 700 "$work/keys.new"
    store keygen -o "$work/keys.new/store"
    store keygen -o "$work/keys.new/worker"
    mv "$work/keys.new" "$work/keys"
fi

jobs=
submit() {  # NAME WAITS-FOR SBATCH-OPTIONS... -- SCRIPT ARGUMENTS...: its number is in $job
    submit_name=$1 submit_after=$2 submit_options=
    shift 2
    while [ "$1" != -- ]; do
        submit_options="$submit_options $1"
        shift
    done
    shift
    case $submit_options in
    *--array*) submit_log=$work/log/$submit_name.%a ;;
    *) submit_log=$work/log/$submit_name ;;
    esac
    job=$(sbatch --parsable --job-name="vas-$submit_name" --output="$submit_log" ${submit_after:+--dependency="$submit_after"} \
        --kill-on-invalid-dep=yes $sbatch_options $submit_options "$@")
    job=${job%%;*}  # a cluster's name may follow
    jobs="$jobs $job"
    echo "vas-align: job $job: $submit_name" >&2
}
rm -f "$work/endpoint"
array=--array=0-$((workers - 1))
rows="$array --cpus-per-task=$cpus"
slurm=pipelines/slurm

submit store "" -- $slurm/store.sh "$work" $listen
store=$job
submit tokenize "after:$store" -- $slurm/job.sh "$work" $slurm/tokenize.sh "$prompts" "$eval_fraction" tokenize \
    -m "$model" ${format:+--format "$format"} ${field:+--field "$field"} ${chat:+--chat "$chat"} \
    --eval-fraction "$eval_fraction" "$prompts"
tokenize=$job
submit rollout "afterok:$tokenize" $rows -- $slurm/job.sh "$work" rollout -t "$cpus" -m "$model" -n "$samples" --split train \
    --max-new-tokens "$max_new_tokens" --seed "$seed"
rollout=$job
with_reward submit reward "afterok:$tokenize" $array -- $slurm/job.sh "$work" reward --follow
reward_job=$job
submit value-target "afterok:$tokenize" -- $slurm/job.sh "$work" value-target --run "$run" --reward "$reward" --lambda "$lambda" \
    --refresh "$refresh"
value_target=$job
mpirun=
[ "$ranks" = 1 ] || mpirun="mpirun --bind-to none -n $ranks"
submit train "afterok:$tokenize" --ntasks="$ranks" --cpus-per-task="$cpus" -- $slurm/job.sh "$work" $mpirun train -t "$cpus" \
    -m "$value_model" --run "$run" \
    --epochs "$epochs" --batch "$batch" --lr "$lr" --schedule "$schedule" --refresh "$refresh" \
    --checkpoint-every "$checkpoint_every" --seed "$seed" -o "$work/value-$run"
train=$job

submit base "afterok:$train" $rows -- $slurm/job.sh "$work" rollout -t "$cpus" -m "$model" -n "$base_samples" --split eval \
    --max-new-tokens "$max_new_tokens" --seed "$seed"
sampled=afterok:$job failed="?afternotok:$job"
for beta in $betas; do
    submit "decode-$beta" "afterok:$train" $rows -- $slurm/job.sh "$work" decode -t "$cpus" -m "$model" \
        --value "$work/value-$run:$beta" \
        --policy "$run beta=$beta" --split eval -n "$eval_samples" --max-new-tokens "$max_new_tokens" --seed "$seed"
    sampled=$sampled:$job failed="$failed?afternotok:$job"
done
with_reward submit score "$sampled" -- $slurm/job.sh "$work" reward
score=$job
for each in "$store" "$tokenize" "$rollout" "$reward_job" "$value_target" "$train"; do
    failed="$failed?afternotok:$each"
done
submit end "afterany:$score$failed" $wait -- $slurm/end.sh "$work" "$reward" "$score" $jobs
