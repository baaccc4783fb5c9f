#!/bin/sh
# Goal: while workers and the store of a whole pipeline are killed, stopped, cut off and left without disk at random moments,
# nothing is lost: the store's content and the value model have the bytes of a run that nobody disturbed and that had one worker of
# each kind.
#
#     tests/fault/chaos.sh [--rollouts 320] [--faults 24] [--seed S]
#
# The schedule (whom, what, for how long, after which pause) depends on the seed alone, which is printed; a victim that has ended
# meanwhile is replaced by one that has not.  The full mode is --rollouts 3000 --faults 200.
set -u
. tests/lib.sh
tiny_model

rollouts=320 faults=24 seed=$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')
while [ $# -ge 2 ]; do
    case $1 in
    --rollouts) rollouts=$2 ;;
    --faults) faults=$2 ;;
    --seed) seed=$2 ;;
    *) echo "usage: tests/fault/chaos.sh [--rollouts N] [--faults N] [--seed S]" >&2; exit 64 ;;
    esac
    shift 2
done
echo "chaos: --rollouts $rollouts --faults $faults --seed $seed" >&2

# ---- what runs ----

# A reward that takes PACE seconds for each response, so that there is time to disturb.
cat >"$scratch/scorer" <<'END_OF_SCORER'
#!/bin/sh
while read -r line; do
    [ "${PACE:-0}" = 0 ] || sleep "$PACE"
    response=${line##*\"response\"}
    echo $((${#response} % 50))
done
END_OF_SCORER
chmod +x "$scratch/scorer"

samples=8
awk -v count=$((rollouts / samples * 2 + 6 * faults + 200)) -v seed=3 -v prompts=1 -f pipelines/stories.awk |
    awk '!seen[$0]++' >"$scratch/many.jsonl"
grep '"train"' "$scratch/many.jsonl" | head -n $((rollouts / samples)) >"$scratch/prompts.jsonl"
eval_prompts=$((16 + faults / 3))
grep '"eval"' "$scratch/many.jsonl" | head -n $eval_prompts >>"$scratch/prompts.jsonl"

tokenize="tokenize -m $tiny/base"
rollout="rollout -m $tiny/base -n $samples --max-new-tokens 48"
reward="reward --name short --exec $scratch/scorer --scale 0.02"
targets="value-target --run short --reward short"
train="train -m $tiny/base --run short --batch 16 --epochs 3 --updates 2 --checkpoint-every 6"
decode="decode -m $tiny/base --value short:4 --split eval -n $samples --max-new-tokens 48"

# The prompts with a pause among them; the process becomes the tokenize.
cat >"$scratch/feed" <<END
mkfifo "$scratch/fifo.\$\$"
{ head -n 20 "$scratch/prompts.jsonl"; sleep 0.5; tail -n +21 "$scratch/prompts.jsonl"; } >"$scratch/fifo.\$\$" &
echo \$! >"$scratch/pid/feeder.\$\$"
exec $tokenize -s "ipc://$scratch/link1.sock" "$scratch/fifo.\$\$"
END

# ---- undisturbed ----

calm() {
    $tokenize "$scratch/prompts.jsonl" && $rollout && $reward || return
    $targets &
    $train -o "$scratch/calm-value" && wait $! && $decode && $reward
}

store_up "$scratch/calm.db"
calm 2>"$scratch/calm.log" || { not_ok "the undisturbed run: $(tail -n 1 "$scratch/calm.log")"; exit; }
store_down
test_pids=
made=$(store export --db "$scratch/calm.db" | wc -l)
[ "$made" -ge "$rollouts" ] && ok "an undisturbed run makes $made rollouts" ||
    not_ok "an undisturbed run makes $made rollouts, expected $rollouts"

# ---- the schedule: a line "VICTIM KIND SECONDS PAUSE" for each disturbance ----

awk -v seed="$seed" -v faults="$faults" '
    function draw(n) {  # as in pipelines/stories.awk
        state = (state * 16807) % 2147483647
        return int(state / 2147483647 * n)
    }
    function pick(list,    words, n) {
        n = split(list, words, " ")
        return words[1 + draw(n)]
    }
    BEGIN {
        state = 1 + seed % 2147483646
        draw(2)
        others = "store store link1 link2 "
        for (i = 0; i < faults; i++) {
            part = i / faults
            if (part < 0.04) victim = "tokenize"
            else if (part < 0.3) victim = pick(others "rollout1 rollout1 rollout2 rollout3")
            else if (part < 0.8) victim = pick(others "rollout1 reward1 reward2 target1 target2 train train train")
            else victim = pick(others "reward1 reward2 decode1 decode1 decode2")
            if (victim == "tokenize") kind = "kill"
            else if (victim == "store") kind = pick("kill kill stop full")
            else kind = pick("kill kill stop")
            seconds = draw(30) / 10 + 0.1
            if (kind == "stop" && draw(6) == 0) seconds += 14 + draw(6)  # its items are offered to others; some have vanished then
            print victim, kind, seconds, 0.05 + draw(part < 0.3 ? 40 : 110) / 100
        }
    }' >"$scratch/schedule"

# ---- supervised processes: pid/NAME when they were started, done/NAME when they have ended well ----

mkdir "$scratch/pid" "$scratch/done" "$scratch/leave" "$scratch/log" "$scratch/disk"
if mount -t tmpfs -o size=1g none "$scratch/disk" 2>/dev/null; then
    disk=tmpfs
elif command -v prlimit >/dev/null; then
    disk=limit
else
    disk=
    sed -i 's/ full / stop /' "$scratch/schedule"
    echo "skip a full disk: needs the right to mount, or prlimit"
fi

supervise() {  # supervise NAME COMMAND...
    name=$1
    shift
    while :; do
        "$@" 2>>"$scratch/log/$name" &
        echo $! >"$scratch/pid/$name"
        [ ! -e "$scratch/leave/$name" ] || kill -TERM $!  # asked to leave while it was started again
        code=0
        wait $! || code=$?
        [ ! -e "$scratch/leave/$name" ] || break
        case $name,$code in
        *,69 | *,75 | *,137) ;;
        store,74) [ -e "$scratch/full" ] || break; sleep 0.1 ;;  # it does not start on a full disk
        *) break ;;
        esac
    done
    case $code in
    0 | 75 | 137 | 143) ;;
    *) echo "$name ended with code $code: $(tail -n 1 "$scratch/log/$name")" >>"$scratch/bad" ;;
    esac
    touch "$scratch/done/$name"
}

start() {
    supervise "$@" &
    test_pids="$test_pids $!"
}

leave() {  # leave NAME...: asks for the end of followers, and waits for it
    for name; do
        touch "$scratch/leave/$name"
        kill -TERM "$(cat "$scratch/pid/$name")"
        kill -CONT "$(cat "$scratch/pid/$name")"
    done 2>/dev/null
    ended "$@"
}

ended() {  # ended NAME...: until all of them have, or one has badly
    until has_ended "$@"; do
        sleep 0.1
    done
}

has_ended() {  # has_ended NAME...: all of them, or one badly
    [ ! -e "$scratch/bad" ] || return 0
    for name; do
        [ -e "$scratch/done/$name" ] || return 1
    done
}

chaos_cleanup() {
    chaos_code=$?
    kill -KILL $test_pids 2>/dev/null  # first those that would start others again
    for file in "$scratch"/pid/*; do
        [ -e "$scratch/done/${file##*/}" ] || kill -KILL "$(cat "$file")" 2>/dev/null
    done
    wait 2>/dev/null
    [ "$disk" != tmpfs ] || umount -l "$scratch/disk"
    ( exit $chaos_code )
    test_cleanup
}
trap chaos_cleanup EXIT
trap 'exit 75' INT TERM HUP

# ---- disturbances ----

later() {  # later SECONDS COMMAND...
    ( sleep "$1"; shift; "$@" 2>/dev/null ) &
    test_pids="$test_pids $!"
}

disk_fill() {
    touch "$scratch/full"
    if [ $disk = limit ]; then
        prlimit --pid "$(cat "$scratch/pid/store")" --fsize=8192: 2>/dev/null
    else
        until mount -o "remount,size=$(df -k "$scratch/disk" | awk 'NR == 2 { print $3 }')k" "$scratch/disk" 2>/dev/null; do :; done
    fi
}

disk_free() {
    if [ $disk = limit ]; then
        prlimit --pid "$(cat "$scratch/pid/store")" --fsize=unlimited: 2>/dev/null
    else
        mount -o remount,size=1g "$scratch/disk"
    fi
    rm -f "$scratch/full"
}

# Somebody who is still there, in place of one who has ended.
stand_in() {
    for name in train decode1 decode2 reward1 store; do
        [ -e "$scratch/pid/$name" ] && [ ! -e "$scratch/done/$name" ] && echo $name && return
    done
}

strike() {  # strike VICTIM KIND SECONDS
    victim=$1 tries=0
    while [ $tries -lt 600 ]; do
        [ -e "$scratch/pid/$victim" ] && [ ! -e "$scratch/done/$victim" ] || victim=$(stand_in)
        pid=$(cat "$scratch/pid/$victim")
        case $2 in
        kill) kill -KILL "$pid" 2>/dev/null && break ;;
        stop) kill -STOP "$pid" 2>/dev/null && later "$3" kill -CONT "$pid" && break ;;
        full) [ -e "$scratch/full" ] || { disk_fill && later "$3" disk_free; break; } ;;
        esac
        tries=$((tries + 1))
        sleep 0.05
    done
    echo "$victim $2 $3" >>"$scratch/struck"
}

# The next disturbances of the schedule, until there have been N in all, or all of these have ended.
struck=0
disturb() {  # disturb N NAME...
    until=$1
    shift
    while [ $struck -lt "$until" ] && ! has_ended "$@"; do
        line=$(sed -n "$((struck + 1))p" "$scratch/schedule")
        sleep "${line##* }"
        has_ended "$@" || { strike ${line% *} && struck=$((struck + 1)); }
    done
}

# Seconds for each of COUNT responses, so that two workers are busy with them during so many disturbances of AVERAGE seconds.
pace() {  # pace DISTURBANCES AVERAGE COUNT
    awk -v n="$1" -v average="$2" -v count="$3" 'BEGIN { print 2 * n * average / count }'
}

db=$scratch/disk/store.db link1=$scratch/link1.sock link2=$scratch/link2.sock direct=$scratch/direct.sock
start store store serve --db "$db" --listen "ipc://$direct" --lease-s 20
start link1 "${BUILD:-build}/tests/fault/relay" "$link1" "$direct"
start link2 "${BUILD:-build}/tests/fault/relay" "$link2" "$direct"

start tokenize sh "$scratch/feed"
disturb $((1 + faults / 25)) tokenize
ended tokenize

PACE=$(pace $((faults * 4 / 10)) 0.8 "$rollouts")
export PACE
start rollout1 $rollout -s "ipc://$direct" --follow --batch 32 -t 1
start rollout2 $rollout -s "ipc://$link1" --follow --batch 7 -t 2
start rollout3 $rollout -s "ipc://$link2" --follow --batch 1 -t 1
start reward1 $reward -s "ipc://$direct" --follow --batch 2
start reward2 $reward -s "ipc://$link1" --follow --batch 7
start target1 $targets -s "ipc://$link2" -t 1
start target2 $targets -s "ipc://$direct" -t 2
start train $train -s "ipc://$link1" -t 2 -o "$scratch/chaos-value"
disturb $((faults * 8 / 10)) train
ended train
leave rollout1 rollout2 rollout3 reward1 reward2

PACE=$(pace $((faults - struck)) 1.2 $((eval_prompts * samples)))
rm -f "$scratch/done/reward1" "$scratch/done/reward2" "$scratch/leave/reward1" "$scratch/leave/reward2"
start reward1 $reward -s "ipc://$link2" --follow --batch 2
start reward2 $reward -s "ipc://$direct" --follow --batch 7
start decode1 $decode -s "ipc://$link1" --batch 5 -t 2
start decode2 $decode -s "ipc://$link2" --batch 32 -t 1
disturb "$faults" decode1 decode2
ended decode1 decode2
start score $reward -s "ipc://$direct" --batch 7
disturb "$faults" score
ended score
leave reward1 reward2 store

# ---- what is left of it ----

[ ! -e "$scratch/bad" ] && ok "nobody ended badly" || not_ok "$(head -n 1 "$scratch/bad")"
kinds=$(awk '{ whose = $1 ~ /^link/ ? "links" : $1 == "store" ? "store" : "workers"
    n[whose " " (whose != "links" ? $2 : $2 == "kill" ? "cut" : "stalled")]++ }
    END { for (kind in n) printf "%d %s, ", n[kind], kind }' "$scratch/struck")
[ "$struck" -ge "$faults" ] && ok "$struck disturbances, seed $seed: ${kinds%, }" ||
    not_ok "only $struck of $faults disturbances, seed $seed"
store digest --db "$scratch/calm.db" >"$scratch/calm.digest"
cp "$db" "$scratch/chaos.db"
store digest --db "$scratch/chaos.db" >"$scratch/chaos.digest"
same "the store has the same content, seed $seed" "$scratch/calm.digest" "$scratch/chaos.digest"
check "the value model has the same bytes, seed $seed" diff -r "$scratch/calm-value" "$scratch/chaos-value"
