#!/bin/sh
# models.sh - models that workers fetch from the store: the same bytes, whatever is killed, cut, damaged or full on the way.
set -u
cd "$(dirname "$0")/../.."
. tests/lib.sh
tiny_model
work=$scratch
VAS_CACHE=$work/cache
export VAS_CACHE
endpoint=ipc://$work/s.sock
store_process=

start_store() {  # start_store DB
    store serve -q --db "$1" --listen "$endpoint" 2>>"$work/store.err" &
    store_process=$!
    test_pids="${test_pids:-} $store_process"
}

stop_store() {  # stop_store SIGNAL
    kill "-$1" "$store_process"
    wait "$store_process" 2>/dev/null
}

served() {  # served DB: its store answers
    store status --db "$1" >/dev/null 2>&1 && [ -S "$work/s.sock" ]
}

# A model whose biggest file no program reads: 48 MB of noise.
mkdir "$work/large"
cp "$tiny"/base/* "$work/large"
head -c 48000000 /dev/urandom >"$work/large/noise.txt"

# Goal: every program that takes -m fetches the model by name, and a worker without it makes what one with it makes.
start_store "$work/far.db"
until_true served "$work/far.db"
digest=$(store share -q --db "$work/far.db" "$tiny/base")
check share_a_reward_model store share -q --db "$work/far.db" --name judge tests/parity/hh/reward
check tokenize_fetches tokenize -q -s "$endpoint" -m store:base "$tiny/prompts.jsonl"
check rollout_fetches rollout -q -s "$endpoint" -m store:base -n 2 --max-new-tokens 8
check reward_fetches reward -q -s "$endpoint" --name judge -m store:judge
check decode_fetches decode -q -s "$endpoint" -m "store:$digest" --policy greedy --split train --greedy --max-new-tokens 8
value-target -q -s "$endpoint" --run r --reward judge --policy base --lambda 1 --value-tokenizer store:base 2>"$work/err" &
target=$!
check train_fetches train -q -s "$endpoint" -m store:base --run r --epochs 1 --batch 16 -o "$work/value"
wait $target || not_ok "value_target_fetches: $(tail -n 1 "$work/err")"
store share -q --db "$work/far.db" "$work/value" >/dev/null
check decode_fetches_a_value_model decode -q -s "$endpoint" -m store:base --value store:value:2 --max-new-tokens 4 "Once"
check files_are_the_same cmp "$tiny/base/model.safetensors" "$VAS_CACHE/models/$digest/model.safetensors"
mkdir "$work/stopping"
cp "$tiny"/base/* "$work/stopping"
echo '{"eos_token_id": [0, 40]}' >"$work/stopping/generation_config.json"
stopping=$(store share -q --db "$work/far.db" "$work/stopping")
echo Once | tokenize -q -s "$endpoint" -m store:stopping --encode >/dev/null
check stop_tokens_are_fetched cmp "$work/stopping/generation_config.json" "$VAS_CACHE/models/$stopping/generation_config.json"
store digest --db "$work/far.db" >"$work/far"
stop_store TERM
start_store "$work/near.db"
until_true served "$work/near.db"
tokenize -q -s "$endpoint" -m "$tiny/base" "$tiny/prompts.jsonl"
rollout -q -s "$endpoint" -m "$tiny/base" -n 2 --max-new-tokens 8
reward -q -s "$endpoint" --name judge -m tests/parity/hh/reward
decode -q -s "$endpoint" -m "$tiny/base" --policy greedy --split train --greedy --max-new-tokens 8
value-target -q -s "$endpoint" --run r --reward judge --policy base --lambda 1 --value-tokenizer "$tiny/base" &
target=$!
train -q -s "$endpoint" -m "$tiny/base" --run r --epochs 1 --batch 16
wait $target
store digest --db "$work/near.db" >"$work/near"
same a_worker_without_the_model_makes_the_same "$work/far" "$work/near"
stop_store TERM

# Goal: a digest that is in the cache needs no store; a name does, and without one everybody says so in a line.
echo Once | tokenize -q -m "$tiny/base" --encode >"$work/expected"
echo Once | tokenize -q -s "ipc://$work/nobody" -m "store:$digest" --encode >"$work/got"
same a_known_digest_needs_no_store "$work/expected" "$work/got"
refused rollout_needs_a_store 64 'model "store:base" is in a store' rollout -m store:base
refused reward_needs_a_store 64 'model "store:base" is in a store' reward --name x -m store:base
refused train_needs_a_store 64 'model "store:base" is in a store' train -m store:base -o "$work/none"
refused value_target_needs_a_store 64 'model "store:base" is in a store' value-target -m store:base
refused decode_needs_a_store 64 'model "store:base" is in a store' decode -m "$tiny/base" --value store:base Once
refused tokenize_needs_a_store 64 'model "store:base" is in a store' tokenize -m store:base

# Goal: what cannot be shared or is not shared is refused.
start_store "$work/far.db"
until_true served "$work/far.db"
refused share_needs_a_path 64 'PATH is missing' store share --db "$work/far.db"
refused share_misses_a_path 66 'No such file' store share --db "$work/far.db" "$work/nothing.gguf"
refused fetch_misses_a_model 66 'shares no model of that name or digest (it shares: base, judge, stopping, value)' \
    tokenize -s "$endpoint" -m store:other --encode

# fetch: tokenizes a line with the large model of the store
echo Once >"$work/line"
fetch() {
    tokenize -s "$endpoint" -m store:large --encode <"$work/line" >"$work/got" 2>"$work/err"
}
begin() {  # the same, as process $worker
    tokenize -s "$endpoint" -m store:large --encode <"$work/line" >"$work/got" 2>"$work/err" &
    worker=$!
}
large=$(store share -q --db "$work/far.db" "$work/large")
part=$VAS_CACHE/models/$large/.noise.txt.part
arrived() {  # arrived FILE: more than 4 MB of it
    [ "$(stat -c %s "$1" 2>/dev/null || echo 0)" -gt 4000000 ]
}
settled() {  # the large model is in the cache, the same to the byte, and nothing else
    cmp -s "$work/expected" "$work/got" && cmp -s "$work/large/noise.txt" "$VAS_CACHE/models/$large/noise.txt" \
        && cmp -s "$work/large/model.safetensors" "$VAS_CACHE/models/$large/model.safetensors" && [ ! -e "$part" ]
}

# Goal: a worker that is killed goes on at the byte that it had reached.
tries=0
while [ ! -e "$part" ] && [ $tries -lt 10 ]; do  # again should it be faster than we are
    rm -rf "$VAS_CACHE/models/$large"
    begin
    until arrived "$part" || ! kill -0 $worker 2>/dev/null; do :; done
    kill -KILL $worker 2>/dev/null
    wait $worker 2>/dev/null
    tries=$((tries + 1))
done
if [ -e "$part" ]; then
    reached=$(stat -c %s "$part")
    fetch
    check a_killed_worker_goes_on grep -q "goes on with \"noise.txt\" after $reached bytes" "$work/err"
    check a_killed_worker_gets_the_same settled
else
    not_ok "a_killed_worker_goes_on: it was never caught on its way"
fi

# Goal: a store that is killed and comes back serves the rest.
tries=0
killed=
while [ -z "$killed" ] && [ $tries -lt 10 ]; do
    rm -rf "$VAS_CACHE/models/$large"
    begin
    until arrived "$part" || ! kill -0 $worker 2>/dev/null; do :; done
    stop_store KILL
    [ ! -e "$part" ] || killed=yes
    start_store "$work/far.db"
    wait $worker || killed=failed
    tries=$((tries + 1))
done
[ "$killed" = yes ] && check a_killed_store_goes_on settled || not_ok "a_killed_store_goes_on: $killed $(tail -n 1 "$work/err")"

# Goal: two that lack it fetch it once, and both can use it.
rm -rf "$VAS_CACHE/models/$large"
begin
tokenize -q -s "$endpoint" -m store:large --encode <"$work/line" >"$work/got2" 2>"$work/err2"
second=$?
wait $worker && [ $second = 0 ] && ok two_at_once || not_ok "two_at_once: $(tail -n 1 "$work/err" "$work/err2")"
check two_at_once_get_the_same settled
same two_at_once_can_use_it "$work/got" "$work/got2"

# Goal: a file of the cache that was damaged is noticed and fetched again, and a directory that is whole is left alone.
printf XYZ | dd of="$VAS_CACHE/models/$large/model.safetensors" bs=1 seek=4000 conv=notrunc 2>/dev/null
fetch
check a_damaged_file_is_noticed grep -q 'model.safetensors" is not as the store has it: fetching it again' "$work/err"
check a_damaged_file_is_fetched_again settled
fetch
check nothing_is_fetched_twice test ! -s "$work/err"

# Goal: the same of a digest, whose files are known here without asking the store.
known() {  # known NAME: fetches by digest, and all is whole again
    tokenize -q -s "$endpoint" -m "store:$large" --encode <"$work/line" >"$work/got" 2>"$work/err"
    check "$1" settled
}
printf XYZ | dd of="$VAS_CACHE/models/$large/model.safetensors" bs=1 seek=4000 conv=notrunc 2>/dev/null
known a_damaged_file_of_a_known_digest_is_fetched_again
rm "$VAS_CACHE/models/$large/noise.txt"
known a_missing_file_of_a_known_digest_is_fetched_again

# Goal: a file that was touched is read once more, not fetched, and known from then on.
touch "$VAS_CACHE/models/$large/noise.txt"
fetch
check a_touched_file_is_not_fetched test ! -s "$work/err"
stamp=$(stat -c %Y "$VAS_CACHE/models/$large/noise.txt")
check a_touched_file_is_known grep -q "changed_ns\":$stamp[0-9]*,\"name\":\"noise.txt" "$VAS_CACHE/models/$large/.checked"

# Goal: a begun file with wrong bytes is not used, and one that is longer than the file neither.
rm "$VAS_CACHE/models/$large/noise.txt"
head -c 1000000 /dev/zero >"$part"
fetch
check a_damaged_part_is_fetched_again settled
rm "$VAS_CACHE/models/$large/noise.txt"
head -c 48000001 /dev/zero >"$part"
fetch
check a_part_that_is_too_long_is_fetched_again settled

# Goal: a full disk (here: a limit on file sizes) is one line and code 74, and what has arrived is kept.
rm -rf "$VAS_CACHE/models/$large"
(ulimit -f 40000; refused a_full_disk 74 'could not write .*noise.txt.part" after [0-9]* bytes: File too large' tokenize -q \
    -s "$endpoint" -m store:large --encode) |
    tee "$work/full"
grep -q '^ok' "$work/full" || test_failed=1
reached=$(stat -c %s "$part")
fetch
check after_a_full_disk_it_goes_on grep -q "goes on with \"noise.txt\" after $reached bytes" "$work/err"
check after_a_full_disk_it_is_the_same settled

# Goal: a file that changed on the store's side is not given out; bytes that changed though size and time are the same are refused.
rm -rf "$VAS_CACHE/models/$large"
cp -p "$work/large/noise.txt" "$work/kept"
printf XYZ | dd of="$work/large/noise.txt" bs=1 seek=30000000 conv=notrunc 2>/dev/null
refused a_changed_file_is_not_given_out 66 'has changed since it was shared: share the model again' tokenize -q -s "$endpoint" \
    -m store:large --encode
touch -r "$work/kept" "$work/large/noise.txt"
refused wrong_bytes_are_refused 65 'the bytes of file "noise.txt" do not have the SHA-256' tokenize -q -s "$endpoint" \
    -m store:large --encode
check wrong_bytes_are_never_seen test ! -e "$VAS_CACHE/models/$large/noise.txt"
stop_store TERM
