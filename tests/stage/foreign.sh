#!/bin/sh
# Goal: the reward worker in Python gives the scores that `reward --exec` gives by the same rule, also when the store and the worker
# are killed on the way; a name that means something else is refused to it as to everybody.
set -u
. tests/lib.sh

python=
for candidate in python3 "${VAS_PYTHON:-}"; do
    [ -n "$candidate" ] && "$candidate" -c 'import sys, zmq, msgpack; assert sys.version_info >= (3, 10)' 2>/dev/null &&
        python=$candidate
done
if [ -z "$python" ]; then
    echo "skip a worker in Python: needs Python 3.10 with pyzmq and msgpack (VAS_PYTHON names another python3)"
    exit
fi
tiny_model

cat >"$scratch/brief.py" <<'PYTHON'
import json, sys
for line in sys.stdin:
    print(1 / (1 + len(json.loads(line)["response"].split())), flush=True)
PYTHON
# The same worker, slow enough to be killed at work.
sed 's/^def score.*/&\n    time.sleep(0.01)/' pipelines/reward_worker.py >"$scratch/slow.py"

db=$scratch/s.db
store_up "$db"
tokenize -q -m "$tiny/base" --split train "$tiny/prompts.jsonl"
rollout -q -m "$tiny/base" -n 8 --max-new-tokens 24
reward -q --name exec --exec "$python $scratch/brief.py"
scores() {  # scores REWARD
    store export --db "$db" --policy base --reward "$1" | sed "s/\"$1\"/REWARD/" | sort
}
scores exec >"$scratch/exec"
[ "$(grep -c REWARD "$scratch/exec")" = 384 ] && ok "reward --exec scores 384 rollouts" ||
    not_ok "reward --exec scores $(grep -c REWARD "$scratch/exec") rollouts"

check "the worker ends when all is scored" timeout 120 "$python" pipelines/reward_worker.py "$VAS_STORE" whole
scores whole >"$scratch/whole"
same "its scores are those of reward --exec" "$scratch/exec" "$scratch/whole"

done_scores() {
    store status --db "$db" | awk '$1 == "reward" && $2 == "killed" { n = $(NF - 2) } END { print n + 0 }'
}
has_done() {  # has_done COUNT
    [ "$(done_scores)" -ge "$1" ]
}
work_on() {  # work_on COUNT: until so many more are scored
    aim=$(($(done_scores) + $1))
    until_true has_done "$aim"
}
start() {
    "$python" "$scratch/slow.py" "$VAS_STORE" killed 2>>"$scratch/log" &
    worker=$!
    test_pids="$store_pid $worker"
}
start
work_on 10
kill -KILL $store_pid
wait $store_pid 2>/dev/null
store_up "$db"
test_pids="$store_pid $worker"
work_on 10
kill -KILL $worker
wait $worker 2>/dev/null
start
work_on 10
kill -STOP $store_pid
sleep 1
kill -KILL $store_pid
wait $store_pid 2>/dev/null
store_up "$db"
code=0
wait $worker || code=$?
[ $code = 0 ] && ok "it ends well although it and the store were killed" ||
    not_ok "killed with the store, it ended with $code: $(tail -n 1 "$scratch/log")"
scores killed >"$scratch/killed"
same "its scores are the same after kills" "$scratch/exec" "$scratch/killed"

store_down

store keygen -q -o "$scratch/store.key" && store keygen -q -o "$scratch/worker.key" && mkdir "$scratch/allowed" &&
    cp "$scratch/worker.key.pub" "$scratch/allowed"
port=$((20000 + $$ % 10000))
store serve --db "$db" --listen "ipc://$db.sock" --listen "tcp://127.0.0.1:$port" --key "$scratch/store.key" \
    --allow "$scratch/allowed" 2>"$db.log" &
store_pid=$!
test_pids=$store_pid
wait_for "$db.sock"
check "it works over a network with keys" env VAS_KEY="$scratch/worker.key" VAS_STORE_KEY="$scratch/store.key.pub" \
    timeout 120 "$python" pipelines/reward_worker.py "tcp://127.0.0.1:$port" far
scores far >"$scratch/far"
same "and gives the same scores" "$scratch/exec" "$scratch/far"
VAS_STORE=ipc://$db.sock
export VAS_STORE
refused "the name of another reward is refused to it" 78 'reward "exec"' "$python" pipelines/reward_worker.py "$VAS_STORE" exec
store_down
