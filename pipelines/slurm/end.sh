#!/bin/bash
# end.sh - the last job of align.sh: ends the others, then reports, if all was scored.
#
#     sbatch [OPTIONS OF SBATCH] pipelines/slurm/end.sh WORK REWARD LAST JOB...
#
# LAST is the job after which everything is there.
set -u
work=$1 reward=$2 last=$3
shift 3
state=$(scontrol show job -o "$last" | sed -n 's/.* JobState=\([A-Z]*\).*/\1/p' | sort -u)
scancel "$@"
tries=0
while [ -f "$work/endpoint" ] && [ $tries -lt 120 ]; do  # until the store has closed its database
    sleep 1
    tries=$((tries + 1))
done
if [ "$state" != COMPLETED ]; then
    echo "vas-slurm: job $last is $state: its log and those of the others are in $work/log" >&2
    echo "hint: submit the same command again to go on with what the store has" >&2
    exit 1
fi
report --db "$work/store.db" --reward "$reward" --split eval -o "$work/report.html"
