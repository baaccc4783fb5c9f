#!/bin/sh
# Goal: a store with keys gives its work to workers whose key is on its list and to nobody else; each of the others is told why in
# one line and ends with the code for it; the list may change while the store serves.
set -u
. tests/lib.sh
awk -v count=600 -v seed=1 -f pipelines/stories.awk >"$scratch/stories.jsonl"
mkdir "$scratch/model"
tokenize -q --train-vocab 300 --field text -o "$scratch/model" "$scratch/stories.jsonl"
awk -v count=48 -v seed=2 -v prompts=1 -f pipelines/stories.awk >"$scratch/prompts.jsonl"
db=$scratch/s.db
cd "$scratch" || exit 1

# wait_for NAME COMMAND...: it succeeds within a minute
wait_for() {
    wait_name=$1
    shift
    until_true "$@" || { not_ok "$wait_name: '$*' still failed after a minute"; exit 1; }
    ok "$wait_name"
}

# Goal: a secret key is readable by its owner only, and no key is ever overwritten.
for name in store worker other; do
    check "keygen makes $name" store keygen -o $name
done
[ "$(stat -c %a worker)" = 600 ] && ok "a secret key is its owner's" ||
    not_ok "a secret key is its owner's: mode $(stat -c %a worker)"
cp worker before
refused "keygen keeps what is there" 73 'File exists' store keygen -o worker
same "the key is the same" worker before
refused "keygen wants a file" 64 'output is missing' store keygen

# Goal: without keys, or with keys that are not right, the store does not start where others could reach it.
cat worker.pub >allow
refused "a store for others wants keys" 64 'is not a loopback address' store serve --db "$db" --listen tcp://0.0.0.0:1
refused "all of 127.0.0.0/8 is loopback, what only looks like it is not" 64 'is not a loopback address' store serve --db "$db" \
    --listen tcp://127.0.0.1.example.org:1
refused "a store with a key wants a list" 64 'allow is missing' store serve --db "$db" --listen tcp://0.0.0.0:1 --key store
refused "keys are for tcp" 64 'is for an endpoint at tcp://' store serve --db "$db" --key store --allow allow
refused "a list of allowed keys has no secrets" 65 'line 4 is a secret key' store serve --db "$db" --listen tcp://0.0.0.0:1 \
    --key store --allow worker
refused "a public key is no secret key" 65 'has no line .secret-key' sh \
    -c 'umask 077; cat store.pub >half; exec store serve --db s.db --listen tcp://0.0.0.0:1 --key half --allow allow'
refused "a missing key file" 66 'No such file' store serve --db "$db" --listen tcp://0.0.0.0:1 --key nothing --allow allow
cp store lent
chmod 644 lent
refused "a key that others can read" 77 'its mode is 644, must be 600' store serve --db "$db" --listen tcp://0.0.0.0:1 --key lent \
    --allow allow

# The port: one that nobody has.
port=$((20000 + $$ % 20000))
while :; do
    store serve --db "$db" --listen "tcp://0.0.0.0:$port" --listen "tcp://[::1]:$port" --listen "ipc://$scratch/sock" --key store \
        --allow allow >serve.log 2>&1 &
    store=$!
    test_pids=$store
    until [ "$(grep -c 'with keys' serve.log)" = 2 ] || ! kill -0 $store 2>/dev/null; do
        sleep 0.05
    done
    grep -q 'could not bind' serve.log || break
    if grep -q '::1' serve.log; then
        echo "skip keys over IPv6: $(tail -n 1 serve.log)"
        exit
    fi
    port=$((port + 1))
done
lexicon=$OLDPWD/pipelines/kind.txt
here=tcp://127.0.0.1:$port

# Goal: who is not on the list gets nothing, and says why.
refused "a worker without a key" 77 'wants keys, and this worker has none' tokenize -s $here -m model prompts.jsonl
refused "a worker with a key that is not allowed" 77 'refuses the key in "other"' tokenize -s $here --key other \
    --store-key store.pub -m model prompts.jsonl
refused "a worker with half of what it needs" 64 'store-key is missing' tokenize -s $here --key worker -m model prompts.jsonl
refused "a worker whose key others can read" 77 'must be 600' tokenize -s $here --key lent --store-key store.pub \
    -m model prompts.jsonl
grep -q 'refused key .* of a worker at 127.0.0.1' serve.log && ok "the store tells of a refused key" ||
    not_ok "the store tells of a refused key: $(tail -n 1 serve.log)"
tokenize -q -s $here --key other --store-key store.pub -m model prompts.jsonl 2>/dev/null
[ "$(grep -c 'refused key' serve.log)" = 1 ] && ok "once for each address" ||
    not_ok "once for each address: $(grep -c 'refused key' serve.log) lines"
store status --db "$db" --json | grep -q '"stages":\[\]' && ok "nothing of theirs was stored" ||
    not_ok "nothing of theirs was stored: $(store status --db "$db" --json)"
# A worker cannot know whether the store that it expects is still to come, so it waits, but says so.
tokenize -s $here --key worker --store-key other.pub -m model prompts.jsonl 2>doubt.log &
doubt=$!
test_pids="$store $doubt"
wait_for "a store without the key that the worker expects" grep -qs 'does not prove that it has the key in "other.pub"' doubt.log
kill $doubt
wait $doubt
test_pids=$store

# Goal: who is on it works, by options or by the environment, over IPv6 too.
check "a worker with an allowed key" tokenize -s $here --key worker --store-key store.pub -m model prompts.jsonl
check "a worker on the store's own machine needs none" tokenize -s "ipc://$scratch/sock" -m model prompts.jsonl
check "its key in the environment, over IPv6" env VAS_KEY=worker VAS_STORE_KEY=store.pub VAS_STORE="tcp://[::1]:$port" tokenize \
    -m model prompts.jsonl
store status --db "$db" --json | grep -q '"done":[1-9]' && ok "its prompts are stored" ||
    not_ok "its prompts are stored: $(store status --db "$db" --json)"
check "whoever is on it may ask how the store is" store status -s $here --key worker --store-key store.pub

# Goal: the list changes and the store goes on: a new key works at once, an old one loses even the connection that it has.
VAS_KEY=worker VAS_STORE_KEY=store.pub VAS_STORE=$here
export VAS_KEY VAS_STORE_KEY VAS_STORE
reward --follow --name kind --lexicon "$lexicon" 2>follow.log &
follow=$!
test_pids="$store $follow"
wait_for "a worker that stays" grep -q 'stage=reward' serve.log
cat other.pub >allow
check "a key that was added" reward --key other --name kind --lexicon "$lexicon"
code=0
wait $follow || code=$?
[ $code = 77 ] && grep -q 'refuses the key in "worker"' follow.log && ok "a worker whose key was taken away ends" ||
    not_ok "a worker whose key was taken away ends: code $code: $(tail -n 1 follow.log)"
refused "an old key" 77 'refuses the key in "worker"' reward --name kind --lexicon "$lexicon"
echo 'public-key = "too short"' >allow
wait_for "the store tells of a list that is wrong" grep -q 'cannot use the list' serve.log
check "a list that is wrong leaves the last one in force" reward --key other --name kind --lexicon "$lexicon"
mkdir keys
cp worker.pub other.pub keys

kill $store
code=0
wait $store || code=$?
[ $code = 0 ] && ok "the store ends" || not_ok "the store ends: code $code"

# Goal: a directory of keys is a list too; a store without keys tells a worker with one.
store serve -q --db "$db" --listen "$here" --key store --allow keys &
store=$!
test_pids=$store
check "a key from a directory" reward --name kind --lexicon "$lexicon"
check "another one" reward --key other --name kind --lexicon "$lexicon"
rm keys/other.pub
wait_for "a key that was taken out of the directory" sh -c '! reward -q --key other --name kind --lexicon "$0" 2>gone.log' \
    "$lexicon"
kill $store
wait $store
store serve --db "$db" --listen "$here" 2>open.log &
store=$!
test_pids=$store
until grep -qs serving open.log || ! kill -0 $store 2>/dev/null; do
    sleep 0.05
done
refused "a store that takes no keys" 77 'takes no keys' reward --name kind --lexicon "$lexicon"
check "it serves who has none" env -u VAS_KEY -u VAS_STORE_KEY reward --name kind --lexicon "$lexicon"
kill $store
wait $store
test_pids=
