#!/bin/bash
# store.sh - the store as a Slurm job: serves WORK/store.db until it is cancelled.
#
#     sbatch [OPTIONS OF SBATCH] pipelines/slurm/store.sh WORK [ENDPOINT]
#
# Workers find it through WORK/endpoint.  Without ENDPOINT it is a port of this node.  At tcp:// the keys are those of WORK/keys,
# where that is there: store, store.pub, worker and worker.pub.  A store that was killed is started again.  Only this node opens the
# database; where WORK is on a file system that several nodes share, its locks must work.
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
work=$1 listen=${2:-} endpoint=${2:-}
if [ -z "$listen" ]; then
    port=$((20000 + SLURM_JOB_ID % 10000))
    listen=tcp://*:$port endpoint=tcp://$(hostname):$port
fi
set --
if [ -d "$work/keys" ] && [ "${listen#tcp:}" != "$listen" ]; then
    set -- --key "$work/keys/store" --allow "$work/keys/worker.pub"
fi

ending=
trap 'ending=1' TERM INT  # Slurm has told the store as well
trap 'rm -f "$work/endpoint"' EXIT
code=137
while [ -z "$ending" ] && case $code in 75 | 129 | 130 | 137 | 143) ;; *) false ;; esac; do
    store serve --db "$work/store.db" --listen "$listen" "$@" &
    child=$!
    echo "$endpoint" >"$work/endpoint.new" && mv "$work/endpoint.new" "$work/endpoint"
    while :; do  # a signal interrupts wait
        wait "$child"
        code=$?
        kill -0 "$child" 2>/dev/null || break
    done
done
exit "$code"
