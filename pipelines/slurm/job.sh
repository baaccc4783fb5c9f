#!/bin/bash
# job.sh - a program as a Slurm job that may be moved, killed and started again.
#
#     sbatch [OPTIONS OF SBATCH] pipelines/slurm/job.sh WORK COMMAND...
#
# A worker of the store whose endpoint stands in WORK/endpoint; waits for that file.  At tcp:// it has the worker's key,
# where WORK/keys is there.  The job, or the task of an array, is queued again when the program stopped before its end (75), found
# no store (69) or was killed, and when its time limit comes near: then it is asked to leave first.  scancel ends it for good.
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
set -u
work=$1
shift
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}

child= ending= moving=
trap 'ending=1' TERM INT  # Slurm has told the program as well
trap 'moving=1; [ -z "$child" ] || kill -TERM "$child"' USR1

until [ -f "$work/endpoint" ] || [ -n "$ending$moving" ]; do
    sleep 1
done
code=75
if [ -z "$ending$moving" ]; then
    VAS_STORE=$(cat "$work/endpoint")
    export VAS_STORE
    if [ -d "$work/keys" ] && [ "${VAS_STORE#tcp:}" != "$VAS_STORE" ]; then
        export VAS_KEY=$work/keys/worker VAS_STORE_KEY=$work/keys/store.pub
    fi
    "$@" &
    child=$!
    while :; do  # a signal interrupts wait
        wait "$child"
        code=$?
        kill -0 "$child" 2>/dev/null || break
    done
fi

[ "$code" != 0 ] && [ -z "$ending" ] || exit "$code"
case $code in
75 | 69 | 129 | 130 | 137 | 143) ;;
*) [ -n "$moving" ] || exit "$code" ;;  # a failure, or a signal of its own making
esac
if [ "${SLURM_RESTART_COUNT:-0}" -ge 20 ]; then
    echo "vas-slurm: job $job ended with code $code and was queued again 20 times: given up" >&2
    exit "$code"
fi
echo "vas-slurm: job $job on $(hostname) ended with code $code: queued again" >&2
scontrol requeue "$job" && sleep 60  # until Slurm takes this process away
exit 75
