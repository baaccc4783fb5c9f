#!/bin/sh
# Goal: workers on other hosts, over a wire that delays, loses and is cut for a while, make the same content as one run on one
# machine, with models that they fetch from the store; who has no key, a wrong one or an old one gets nothing and says why, and
# strangers get nothing at all.
#
#     tests/fault/network.sh [--long]      --long: a worse wire, cut for 30 s instead of 6
#
# The hosts are network namespaces, joined by veth to one more in which hub.c is the wire.
set -u
. tests/lib.sh
delay_ms=10 loss=1 cut_s=6 samples=32
if [ "${1:-}" = --long ]; then
    delay_ms=40 loss=3 cut_s=30 samples=64
fi
skip() {
    echo "skip network: $*"
    exit 0
}
[ "$(id -u)" = 0 ] || skip "needs root"
command -v ip >/dev/null || skip "iproute2 is not installed"
tiny_model

# ---- hosts ----

net=vas$$
hosts='a b c'
namespaces=
network_down() {
    for name in $namespaces; do
        ip netns del "$name" 2>/dev/null
    done
    test_cleanup
}
trap network_down EXIT
trap 'exit 75' INT TERM HUP

for name in wire $hosts; do
    ip netns add "$net$name" 2>"$scratch/err" || skip "no network namespaces here: $(tail -n 1 "$scratch/err")"
    namespaces="$namespaces $net$name"
    ip -n "$net$name" link set lo up
done
number=0
for name in $hosts; do
    number=$((number + 1))
    ip link add "end$name" netns "${net}wire" type veth peer name eth0 netns "$net$name" 2>"$scratch/err" ||
        skip "no veth here: $(tail -n 1 "$scratch/err")"
    ip -n "${net}wire" link set "end$name" up
    ip -n "$net$name" addr add "10.77.0.$number/24" dev eth0
    ip -n "$net$name" addr add "fd77::$number/64" dev eth0 nodad 2>/dev/null
    ip -n "$net$name" link set eth0 up
done
gcc -O2 -o "$scratch/hub" tests/fault/wire/hub.c || { not_ok "the wire does not compile"; exit 1; }
ip netns exec "${net}wire" "$scratch/hub" $delay_ms $loss enda endb endc >"$scratch/hub.out" 2>"$scratch/hub.err" &
wire=$!
test_pids=$wire

# within NAME SECONDS COMMAND...: it succeeds in that time
within() {
    within_name=$1 tries=0 tries_max=$((10 * $2))
    shift 2
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt $tries_max ] || { not_ok "$within_name: '$*' still fails after $((tries_max / 10)) s"; exit 1; }
        sleep 0.1
    done
}
within "the wire" 10 sh -c "grep -q ready '$scratch/hub.out' || ! kill -0 $wire"
grep -q ready "$scratch/hub.out" || skip "no packet sockets here: $(tail -n 1 "$scratch/hub.err")"

# ---- the pipeline: on one host, and spread over three ----

# start HOST NAME COMMAND...: in the background, its messages in NAME.log, its process in $NAME_pid
start() {
    start_host=$1 start_name=$2
    shift 2
    if [ "$start_host" = here ]; then
        "$@" 2>"$scratch/$start_name.log" &
    else
        ip netns exec "$net$start_host" "$@" 2>"$scratch/$start_name.log" &
    fi
    eval "${start_name}_pid=$!"
    test_pids="$test_pids $!"
}

# ended NAME: it has ended well
ended() {
    ended_code=0
    eval "wait \$${1}_pid" || ended_code=$?
    [ $ended_code = 0 ] || not_ok "$1 ended with code $ended_code: $(tail -n 1 "$scratch/$1.log")"
}

done_rollouts() {  # done_rollouts DATABASE
    store status --db "$scratch/$1.db" --json | grep -o '{[^}]*"rollout"[^}]*}' | grep -o '"done": *[0-9]*' | grep -o '[0-9]*$'
}

here() {  # workers that were welcomed to work
    grep ' is here ' "$scratch/store.log" | grep -vc 'stage=fetch'
}

at_work() {  # of them
    echo $(($(here) - $(grep ' left ' "$scratch/store.log" | grep -vc 'stage=fetch')))
}

are_here() {  # are_here COUNT
    [ "$(here)" -ge "$1" ]
}

pipeline() {  # pipeline PREFIX HOST HOST MODEL
    start "$2" "$1tokenize" tokenize -m "$4" "$tiny/prompts.jsonl"
    start "$2" "$1rollout" rollout --follow -m "$4" -n $samples --max-new-tokens 64 -t 1
    start "$3" "$1second" rollout --follow -m "$4" -n $samples --max-new-tokens 64 -t 1
    start "$3" "$1reward" reward --follow --name kind --lexicon pipelines/kind.txt
    start "$3" "$1values" value-target --run kind --reward kind
    start "$2" "$1train" train -m "$4" --run kind --epochs 1 --batch 32 -t 1 -o "$scratch/$1value"
}

pipeline_end() {  # pipeline_end PREFIX
    for name in tokenize values train; do
        ended "$1$name"
    done
    for name in rollout second reward; do
        eval "kill \$$1${name}_pid"
        eval "wait \$$1${name}_pid"
    done
}

VAS_STORE=ipc://$scratch/calm.sock
export VAS_STORE
start here store store serve --db "$scratch/calm.db" --listen "$VAS_STORE"
pipeline calm_ here here "$tiny/base"
pipeline_end calm_
kill $store_pid
ended store
rollouts=$(done_rollouts calm)

for name in store worker other old; do
    store keygen -q -o "$scratch/$name"
done
cat "$scratch/worker.pub" "$scratch/old.pub" >"$scratch/allow"
VAS_STORE=tcp://10.77.0.1:7070 VAS_KEY=$scratch/worker VAS_STORE_KEY=$scratch/store.pub
export VAS_STORE VAS_KEY VAS_STORE_KEY
start a store store serve --db "$scratch/far.db" --listen "$VAS_STORE" --listen "tcp://[fd77::1]:7070" --key "$scratch/store" \
    --allow "$scratch/allow"
within "the store" 10 grep -q 'serving .*7070' "$scratch/store.log"

# ---- who gets nothing ----

lexicon=pipelines/kind.txt
refused "a worker without a key" 77 'wants keys' ip netns exec ${net}b env -u VAS_KEY -u VAS_STORE_KEY tokenize -q \
    -m "$tiny/base" "$tiny/prompts.jsonl"
refused "a worker with a wrong key" 77 'refuses the key' ip netns exec ${net}b tokenize -q --key "$scratch/other" \
    -m "$tiny/base" "$tiny/prompts.jsonl"
check "a key that is still allowed" ip netns exec ${net}c reward -q --key "$scratch/old" --name kind --lexicon $lexicon
start c oldster reward --follow --key "$scratch/old" --name kind --lexicon $lexicon
within "the worker with the old key" 30 are_here 2
cat "$scratch/worker.pub" >"$scratch/allow"
code=0
wait $oldster_pid || code=$?
[ $code = 77 ] && grep -q 'refuses the key' "$scratch/oldster.log" && ok "a worker whose key was taken away" ||
    not_ok "a worker whose key was taken away: code $code: $(tail -n 1 "$scratch/oldster.log")"
refused "a worker with an old key" 77 'refuses the key' ip netns exec ${net}c reward -q --key "$scratch/old" --name kind \
    --lexicon $lexicon
start b doubt tokenize --store-key "$scratch/other.pub" -m "$tiny/base" "$tiny/prompts.jsonl"  # waits 30 s for the right store
within "a worker that expects another store" 25 grep -qs 'does not prove that it has the key' "$scratch/doubt.log"
start c stranger "${BUILD:-build}/tests/fault/test_strangers" 10.77.0.1 7070
[ "$(store status --db "$scratch/far.db" --json | grep -o '"done": *[1-9][0-9]*')" = '' ] && ok "they have given nothing" ||
    not_ok "they have given something"

# ---- the same pipeline, with strangers at the door and the wire cut ----

has_rollouts() {
    [ "$(done_rollouts far)" -gt 0 ] 2>/dev/null
}
store share -q --db "$scratch/far.db" "$tiny/base" >"$scratch/digest"
VAS_CACHE=$scratch/cache
export VAS_CACHE
before=$(here)
pipeline far_ b c store:base
within "six workers" 120 are_here $((before + 6))
within "the first rollouts" 120 has_rollouts
kill -USR1 $wire
cut_off=$(at_work)
sleep $cut_s
after=$(done_rollouts far)
kill -USR2 $wire
[ "$cut_off" -gt 0 ] && ok "the wire was cut for $cut_s s between the store and $cut_off workers, at $after of $rollouts rollouts" \
    ||
    not_ok "the cut came too late: nobody was at work"
pipeline_end far_
ok "the pipeline ends over a wire with $delay_ms ms, $loss % loss and a cut of $cut_s s"
if [ $cut_s -ge 20 ]; then
    grep -q 'connecting again' "$scratch"/far_*.log && grep -q 'is back' "$scratch"/far_*.log && ok "workers noticed the cut" ||
        not_ok "no worker noticed the cut"
    grep -q 'is silent' "$scratch/store.log" && ok "the store noticed the cut" || not_ok "the store did not notice the cut"
fi

store digest --db "$scratch/calm.db" >"$scratch/calm.digest"
store digest --db "$scratch/far.db" >"$scratch/far.digest"
same "the store holds what an undisturbed run on one host makes" "$scratch/calm.digest" "$scratch/far.digest"
same "the value model has the same bytes" "$scratch/calm_value/model.safetensors" "$scratch/far_value/model.safetensors"

# ---- a model that is on its way when the wire is cut ----

mkdir "$scratch/large"
cp "$tiny"/base/* "$scratch/large"
head -c 60000000 /dev/urandom >"$scratch/large/noise.txt"
large=$(store share -q --db "$scratch/far.db" "$scratch/large")
echo Once | tokenize -q -m "$tiny/base" --encode >"$scratch/expected"
echo Once >"$scratch/line"
start b fetch sh -c "tokenize -m store:large --encode <'$scratch/line' >'$scratch/encoded'"
part=$VAS_CACHE/models/$large/.noise.txt.part
part_arrives() {
    [ -s "$part" ]
}
within "the first bytes of the model" 60 part_arrives
kill -USR1 $wire
sleep $cut_s
[ -s "$part" ] && ok "the wire was cut after $(stat -c %s "$part") bytes of the model" ||
    not_ok "the cut came too late for the model"
kill -USR2 $wire
ended fetch
same "the model has the same bytes" "$scratch/large/noise.txt" "$VAS_CACHE/models/$large/noise.txt"
same "the model can be used" "$scratch/expected" "$scratch/encoded"

code=0
wait $stranger_pid || code=$?
[ $code = 0 ] && ok "strangers got nothing" || not_ok "strangers got something: $(tail -n 1 "$scratch/stranger.log")"
code=0
wait $doubt_pid || code=$?
[ $code = 77 ] && grep -qs 'does not prove that it has the key' "$scratch/doubt.log" &&
    ok "a store without the key that the worker expects" ||
    not_ok "a store without the key that the worker expects: code $code: $(tail -n 1 "$scratch/doubt.log")"
check "a worker over IPv6" ip netns exec ${net}b reward -q -s "tcp://[fd77::1]:7070" --name kind --lexicon $lexicon
kill $store_pid
ended store
