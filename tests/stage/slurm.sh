#!/bin/sh
# Goal: Slurm on two nodes runs the whole of align.sh, with keys; workers, the training and the store that are killed come back, and
# the store holds what an undisturbed run on one machine gives.
set -u
. tests/lib.sh
if [ "$(id -u)" != 0 ]; then
    echo "skip slurm: starting its daemons takes root"
    exit 0
fi
for need in munged slurmctld slurmd sbatch scontrol setpriv; do
    command -v $need >/dev/null || { echo "skip slurm: $need is not installed (slurm-wlm, munge)"; exit 0; }
done
tiny_model

# ---- a cluster of this machine: two nodes, the daemons in the foreground, everything in $scratch ----

daemons=
slurm_stop() {
    slurm_code=$?
    scancel --user=root 2>/dev/null
    tries=0
    while [ -n "$(squeue -h 2>/dev/null)" ] && [ $tries -lt 20 ]; do
        sleep 0.5
        tries=$((tries + 1))
    done
    for pid in $daemons; do
        kill -TERM "$pid" 2>/dev/null
    done
    sleep 1
    for pid in $daemons; do
        kill -KILL "$pid" 2>/dev/null
    done
    (exit $slurm_code)
    test_cleanup
}
trap slurm_stop EXIT

daemon() {  # NAME COMMAND...
    daemon_log=$scratch/$1.out
    shift
    "$@" >"$daemon_log" 2>&1 </dev/null &
    daemons="$! $daemons"
}
chmod 755 "$scratch"
mkdir "$scratch/munge" "$scratch/state"
head -c 1024 /dev/urandom >"$scratch/munge/key"
chmod 400 "$scratch/munge/key"
owner=$(id -u munge 2>/dev/null || echo 0)
chown -R "$owner" "$scratch/munge"
daemon munged setpriv --reuid "$owner" --clear-groups munged --foreground --socket="$scratch/munge/socket" \
    --key-file="$scratch/munge/key" \
    --pid-file="$scratch/munge/pid" --log-file="$scratch/munge/log" --seed-file="$scratch/munge/seed"
host=$(hostname -s) port=$((20000 + $$ % 10000))
cat >"$scratch/slurm.conf" <<END_CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$scratch/munge/socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
StateSaveLocation=$scratch/state
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmdPidFile=$scratch/slurmd.%n.pid
SlurmdSpoolDir=$scratch/spool.%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=8
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=8
PartitionName=all Nodes=ALL Default=YES
END_CONF
SLURM_CONF=$scratch/slurm.conf
export SLURM_CONF
daemon slurmctld slurmctld -D -c
daemon slurmd1 slurmd -D -N n1
daemon slurmd2 slurmd -D -N n2
tries=0
until [ "$(sinfo -h -N -o '%N %T' 2>/dev/null | grep -c idle)" = 2 ] || [ $tries = 60 ]; do
    sleep 0.5
    tries=$((tries + 1))
done
if [ $tries = 60 ]; then
    for log in munged slurmctld slurmd1; do
        tail -n 3 "$scratch/$log.out" | sed "s/^/$log: /" >&2
    done
    said=$(tail -q -n 1 "$scratch/munged.out" "$scratch/slurmctld.out" "$scratch/slurmd1.out" | tr '\n' '|')
    echo "skip slurm: its daemons do not start here: $said"
    exit 0
fi
ok "two nodes are there"

# ---- the pipeline ----

run() {  # SCRIPT WORK OPTIONS...
    script=$1 work=$2
    shift 2
    "$script" --model "$tiny/base" --prompts "$tiny/prompts.jsonl" --lexicon pipelines/kind.txt --reward kind --work "$work" \
        --samples 24 --eval-samples 4 --base-samples 4 --max-new-tokens 64 --betas '2 8' --epochs 1 --batch 16 \
        --checkpoint-every 4 "$@"
}
check "the same on one machine" run pipelines/align.sh "$scratch/local"

# The jobs' programs: the first rollout and the first train to be started are killed soon after that, the store when both have been.
mkdir "$scratch/bin" "$scratch/killed"
ln -s "$BIN"/* "$scratch/bin"
for program in rollout train; do
    rm "$scratch/bin/$program"
    cat >"$scratch/bin/$program" <<END_PROGRAM
#!/bin/sh
case " \$*" in *" --help") exec "$BIN/$program" "\$@" ;; esac
mkdir "$scratch/killed/$program" 2>/dev/null || exec "$BIN/$program" "\$@"
"$BIN/$program" "\$@" &
sleep 0.1
kill -KILL \$!
wait \$!
END_PROGRAM
    chmod +x "$scratch/bin/$program"
done

BIN=$scratch/bin run pipelines/slurm/align.sh "$scratch/shared" --workers 3 --wait >"$scratch/submit.out" 2>&1 &
submitted=$!
test_pids="${test_pids:-} $submitted"
store_of_cluster() {
    for comm in /proc/[0-9]*/comm; do
        pid=${comm#/proc/} pid=${pid%/comm}
        { read -r name <"$comm"; } 2>/dev/null || continue
        [ "$name" = store ] || continue
        tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "SLURM_CONF=$SLURM_CONF" && echo "$pid" && return
    done
}
hastened=
hasten() {  # Slurm lets two minutes pass before what was queued again; seconds are enough, but within one a node refuses it
    for job in $(squeue -h -t PD -o '%i %r' | awk '$2 == "BeginTime" { print $1 }'); do
        case " $hastened " in *" $job "*) continue ;; esac  # each is killed once
        scontrol update JobId="$job" StartTime=now+4 2>/dev/null && hastened="$hastened $job"
    done
}
while kill -0 $submitted 2>/dev/null; do
    if [ -d "$scratch/killed/rollout" ] && [ -d "$scratch/killed/train" ] && [ ! -d "$scratch/killed/store" ]; then
        kill -KILL "$(store_of_cluster)" 2>/dev/null && mkdir "$scratch/killed/store"
    fi
    hasten
    sleep 0.3
done
code=0
wait $submitted || code=$?
test_pids=
[ $code = 0 ] && ok "the jobs end well" ||
    not_ok "the last job says $code: $(tail -qn 1 "$scratch"/shared/log/end "$scratch/submit.out" | tr '\n' '|')"
killed=$(ls -m "$scratch/killed")
[ "$killed" = "rollout, store, train" ] && ok "and those that were killed: $killed" || not_ok "only these were killed: $killed"
again=$(cat "$scratch"/shared/log/* | grep -c 'queued again')
[ "$again" -ge 2 ] && ok "$again times a job was queued again" || not_ok "only $again times a job was queued again"
check "there is a report" test -s "$scratch/shared/report.html"
check "no job is left" sh -c '[ -z "$(squeue -h -t R,PD)" ]'
for name in local shared; do
    store digest --db "$scratch/$name/store.db" >"$scratch/$name.digest"
done
same "the store holds the same content" "$scratch/local.digest" "$scratch/shared.digest"
same "the value model has the same bytes" "$scratch/local/value-kind/model.safetensors" \
    "$scratch/shared/value-kind/model.safetensors"
