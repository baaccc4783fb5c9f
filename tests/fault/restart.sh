#!/bin/sh
# Goal: a store that is killed, or stopped, and started again under several workers hands out again next to nothing of what they
# hold: each response is sampled once, each rollout scored once.
set -u
. tests/lib.sh
tiny_model

# Slow enough that what is held outlasts the restart.
mkdir "$scratch/config"
cp "$tiny"/config/* "$scratch/config"
sed -e 's/"hidden_size": 32/"hidden_size": 256/' -e 's/"intermediate_size": 64/"intermediate_size": 512/' \
    -e 's/"num_hidden_layers": 2/"num_hidden_layers": 6/' "$tiny/config/config.json" >"$scratch/config/config.json"
head -n 2 "$tiny/stories.jsonl" | tokenize -q -m "$scratch/config" --field text |
    train -q -m "$scratch/config" --from-scratch --objective lm --batch 2 --epochs 1 -o "$scratch/base"
head -n 24 "$tiny/prompts.jsonl" | sed 's/"split": *"eval"/"split": "train"/' >"$scratch/prompts.jsonl"

held() {  # held COUNT: so many items, or more, are with workers
    store status -s "$VAS_STORE" --json | tr ',' '\n' | sed -n 's/.*"held": *//p' |
        awk -v count="$1" '{ n += $1 } END { exit n < count }'
}

restart() {  # restart SIGNAL
    kill -s "$1" $store_pid
    wait $store_pid 2>/dev/null
    store_up "$scratch/s.db"
}

store_up "$scratch/s.db"
tokenize -q -m "$scratch/base" "$scratch/prompts.jsonl"
workers=
for worker in 1 2 3 4; do
    rollout -v -m "$scratch/base" -t 1 -n 8 --batch 8 --max-new-tokens 160 2>"$scratch/rollout.$worker" &
    workers="$workers $!"
done
test_pids="$test_pids $workers"
for signal in KILL TERM; do
    until_true held 60 || not_ok "the workers never held 60 items"  # all four: one that is new would be given what others have
    restart $signal
done
for worker in $workers; do
    wait "$worker" || not_ok "a rollout ended with code $?: $(tail -n 1 "$scratch"/rollout.* | tr '\n' '|')"
done
# Each has given one metric beside its responses.
sampled=$(sed -n 's/.*edge of rollout: .* given=\([0-9]*\).*/\1/p' "$scratch"/rollout.* | awk '{ n += $1 - 1 } END { print n + 0 }')
[ "$sampled" -ge 192 ] && [ "$sampled" -le 200 ] && ok "of 192 responses $((sampled - 192)) were sampled twice" ||
    not_ok "192 responses were sampled $sampled times"

cat >"$scratch/slow" <<END
while read -r line; do
    echo >>"$scratch/scored"
    sleep 0.03
    echo 1
done
END
workers=
for worker in 1 2 3; do
    reward -q --name slow --batch 8 --exec "sh $scratch/slow" &
    workers="$workers $!"
done
test_pids="$test_pids $workers"
for signal in KILL TERM; do
    until_true held 40 || not_ok "the workers never held 40 rollouts"
    restart $signal
done
for worker in $workers; do
    wait "$worker" || not_ok "a reward ended with code $?"
done
scored=$(wc -l <"$scratch/scored")
[ "$scored" -ge 192 ] && [ "$scored" -le 200 ] && ok "of 192 rollouts $((scored - 192)) were scored twice" ||
    not_ok "192 rollouts were scored $scored times"
store_down
