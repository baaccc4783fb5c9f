#!/bin/sh
# store.sh - the program store from outside: what it refuses, and a disk that is full for a while.
set -u
cd "$(dirname "$0")/../.."
bin=${BIN:-bin}
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null; rm -rf "$work"' EXIT

verdict() {  # verdict NAME CODE EXPECTED-CODE PATTERN [FILE]: the code, and a line of FILE ($work/err)
    if [ "$2" != "$3" ]; then
        echo "not ok $1: exit code $2, expected $3: $(head -n 1 "${5:-$work/err}")"
    elif ! grep -q "$4" "${5:-$work/err}"; then
        echo "not ok $1: no line like \"$4\": $(head -n 1 "${5:-$work/err}")"
    else
        echo "ok $1"
    fi
}

# run ARGUMENTS...: the program, at most 10 s; its code in $code, its messages in $work/err
run() {
    code=0
    timeout 10 "$bin/store" "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
}

start() {
    "$bin/store" serve --db "$work/s.db" 2>>"$work/server" &
    server=$!
    tries=0
    until [ -S "$work/s.db.sock" ] || [ $tries -gt 600 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
}

stop() {
    kill -TERM "$server"
    server_code=0
    wait "$server" || server_code=$?
    server=
}

# Goal: each mistake on the command line is one line and code 64.
run
verdict store_needs_a_command "$code" 64 'a command is missing'
run cook
verdict store_knows_its_commands "$code" 64 'unknown command "cook"'
run serve
verdict store_needs_a_file "$code" 64 'db is missing'
run serve --db "$work/s.db" --listen tcp://0.0.0.0:5555
verdict store_stays_on_this_machine "$code" 64 'is not a loopback address'
for port in '' :0 :99999 :7070x :-5 ':*'; do
    run serve --db "$work/s.db" --listen "tcp://127.0.0.1$port"
    verdict "store_wants_a_port_and_not_$port" "$code" 64 'must end in a port, from 1 to 65535'
done
run serve --db "$work/s.db" --listen "ipc://$work/$(printf '%0120d' 0)"
verdict store_checks_the_length_of_a_socket_path "$code" 64 'a socket.s may have 107'

# Goal: other files are refused and left as they are.
echo 'this is a text and no database' >"$work/text"
run serve --db "$work/text"
verdict store_refuses_a_text "$code" 65 'is not a store: it is no SQLite database'
[ "$(cat "$work/text")" = 'this is a text and no database' ] && echo 'ok store_leaves_other_files' ||
    echo 'not ok store_leaves_other_files: changed'
run status --db "$work/nothing"
verdict store_misses_a_file "$code" 66 'No such file'

# Goal: a second store on the same database gives up with one line, and the first goes on serving.
start
run serve --db "$work/s.db"
verdict store_is_one_process "$code" 69 'is served by another process already'
[ "$(wc -l <"$work/err")" = 1 ] && echo 'ok store_says_it_in_one_line' || echo 'not ok store_says_it_in_one_line: more'
run serve --db "$work/other.db" --listen "ipc://$work/s.db.sock"
if [ "$code" = 124 ]; then echo 'not ok store_keeps_its_socket: another store took it'; else verdict store_keeps_its_socket \
    "$code" 69 'is served by another process already'; fi
kill -0 "$server" && [ -S "$work/s.db.sock" ] && echo 'ok store_goes_on' || echo 'not ok store_goes_on: it ended'
run status --db "$work/s.db" --json
[ "$code" = 0 ] && grep -q '"served":true,"stages":\[\],"workers":\[\]' "$work/out" && echo 'ok store_status_of_who_serves' ||
    echo "not ok store_status_of_who_serves: $(cat "$work/out" "$work/err")"
run status -s "ipc://$work/s.db.sock"
[ "$code" = 0 ] && grep -q '^stage .* leased ' "$work/out" && echo 'ok store_status_without_the_file' ||
    echo "not ok store_status_without_the_file: $(cat "$work/out" "$work/err")"
run status --db "$work/s.db" -s "ipc://$work/nobody.sock"
[ "$code" = 0 ] && grep -q '^no process that serves this store has answered' "$work/out" &&
    grep -q '^(-s ENDPOINT asks ' "$work/out" && echo 'ok store_status_of_the_file_alone' ||
    echo "not ok store_status_of_the_file_alone: $(cat "$work/out" "$work/err")"
timeout 3 "$bin/store" status --db "$work/s.db" --watch 0.2 >"$work/out" 2>"$work/err"
[ "$(grep -c '^stage ' "$work/out")" -gt 1 ] && ! grep -q '\[H' "$work/out" && echo 'ok store_status_watches' ||
    echo "not ok store_status_watches: $(cat "$work/out" "$work/err")"
run status --db "$work/s.db" --watch soon
verdict store_status_watches_for_seconds "$code" 64 'is given "soon"'
stop
[ "$server_code" = 0 ] && echo 'ok store_ends_on_sigterm' || echo "not ok store_ends_on_sigterm: code $server_code"

# Goal: a socket file left by a killed store does not keep the next one from serving.
start
kill -9 "$server"
wait "$server" 2>/dev/null
start
sleep 0.2
kill -0 "$server" && echo 'ok store_after_kill' || echo "not ok store_after_kill: $(tail -n 1 "$work/server")"
stop

# Goal: a file of a newer version is refused.
if command -v sqlite3 >/dev/null; then
    cp "$work/s.db" "$work/newer.db"
    sqlite3 "$work/newer.db" 'PRAGMA user_version = 99' >/dev/null
    run serve --db "$work/newer.db"
    verdict store_refuses_newer_versions "$code" 65 'has format version 99, this program knows versions up to'
else
    echo 'skip store_refuses_newer_versions: sqlite3 is not installed'
fi

# Goal: a file's name need not be UTF-8.
latin=$work/$(printf 'caf\351.db')
cp "$work/s.db" "$latin"
run status --db "$latin" --json
verdict store_status_of_a_name_in_latin_1 "$code" 0 "caf$(printf '\357\277\275')" "$work/out"

# Goal: who may not write beside a store that nobody serves reads it all the same, whatever its name; unless a killed store's log
# holds part of it.
mkdir "$work/its #1"
cp "$work/s.db" "$work/its #1/100%?.db"
chmod 555 "$work/its #1"
chmod 755 "$work"
as_nobody=
[ "$(id -u)" != 0 ] || as_nobody='setpriv --reuid=65534 --clear-groups'
if $as_nobody test -x "$bin/store"; then
    code=0
    timeout 10 $as_nobody "$bin/store" status --db "$work/its #1/100%?.db" --json >"$work/out" 2>"$work/err" </dev/null || code=$?
    verdict store_reads_what_it_cannot_write "$code" 0 '"served":false' "$work/out"
    chmod 755 "$work/its #1"
    printf log >"$work/its #1/100%?.db-wal"
    chmod 555 "$work/its #1"
    code=0
    timeout 10 $as_nobody "$bin/store" status --db "$work/its #1/100%?.db" >"$work/out" 2>"$work/err" </dev/null || code=$?
    verdict store_says_that_a_log_is_left "$code" 66 'where nothing may be written: part of it is in ".*100%?.db-wal"'
else
    echo 'skip store_reads_what_it_cannot_write: needs setpriv, and programs that others may run'
fi
chmod 755 "$work/its #1"

# Goal: while the disk is full (here: a limit on file sizes) the store goes on and says so once;
# when there is room again all prompts arrive.
rm -f "$work"/s.db*
awk 'BEGIN { for (i = 0; i < 4000; i++)
    printf "{\"prompt\": \"Prompt number %d, long enough to fill some pages of the file.\"}\n", i }' >"$work/prompts.jsonl"
model=$(ls tests/parity/tokenizer*/tokenizer.json ../shared/data/stories260K/stories260K.gguf \
    "${VAS_TEST_DATA:-/nonexistent}/stories260K/stories260K.gguf" 2>/dev/null | head -n 1)
if [ -z "$model" ] || ! command -v prlimit >/dev/null; then
    echo 'skip store_survives_a_full_disk: needs a tokenizer and prlimit'
    exit 0
fi
: >"$work/server"
( ulimit -S -f 400; exec "$bin/store" serve --db "$work/s.db" 2>"$work/server" ) &
server=$!
timeout 60 "$bin/tokenize" -s "ipc://$work/s.db.sock" -m "$model" "$work/prompts.jsonl" 2>"$work/err" &
tokenize=$!
sleep 2
if ! grep -q 'could not write store' "$work/server"; then
    echo "not ok store_says_that_the_disk_is_full: $(tail -n 1 "$work/server")"
elif ! kill -0 "$server" 2>/dev/null || ! kill -0 "$tokenize" 2>/dev/null; then
    echo "not ok store_says_that_the_disk_is_full: something ended: $(tail -n 1 "$work/server" "$work/err")"
else
    echo 'ok store_says_that_the_disk_is_full'
fi
# Goal: a worker that is asked to stop meanwhile leaves, and says that it must be started again.
timeout 60 "$bin/tokenize" -q -s "ipc://$work/s.db.sock" -m "$model" "$work/prompts.jsonl" 2>"$work/leaver" &
leaver=$!
sleep 3
kill -TERM "$leaver"
code=0
wait "$leaver" || code=$?
verdict a_worker_leaves_a_full_store "$code" 75 'has stored nothing' "$work/leaver"
prlimit --pid "$server" --fsize=unlimited:
code=0
wait "$tokenize" || code=$?
ended=$code
run status --db "$work/s.db" --json
if [ "$ended" = 0 ] && grep -q '"done":4000' "$work/out"; then
    echo 'ok store_survives_a_full_disk'
else
    echo "not ok store_survives_a_full_disk: tokenize ended with $ended: $(tail -n 1 "$work/err") $(cat "$work/out")"
fi
stop

# Goal: a copy of a store that serves is whole, and goes on where the store was: given the same afterwards, both hold the same.
awk 'BEGIN { for (i = 0; i < 500; i++) printf "{\"prompt\": \"Another prompt, number %d.\"}\n", i }' >"$work/more.jsonl"
: >"$work/server"
start
run backup --db "$work/s.db" -o "$work/copy.db"
verdict store_makes_a_backup "$code" 0 'wrote ".*copy.db"'
run backup --db "$work/s.db" -o "$work/copy.db"
verdict store_overwrites_no_backup "$code" 73 'is there already'
run backup --db "$work/s.db" -o "$work/nowhere/copy.db"
verdict store_says_that_it_cannot_make_a_backup "$code" 74 'could not write backup'
timeout 60 "$bin/tokenize" -q -s "ipc://$work/s.db.sock" -m "$model" "$work/more.jsonl"
stop
"$bin/store" serve --db "$work/copy.db" --listen "ipc://$work/s.db.sock" 2>>"$work/server" &
server=$!
timeout 60 "$bin/tokenize" -q -s "ipc://$work/s.db.sock" -m "$model" "$work/more.jsonl"
stop
run digest --db "$work/s.db"
digest=$(cat "$work/out")
run digest --db "$work/copy.db"
if [ -n "$digest" ] && [ "$digest" = "$(cat "$work/out")" ]; then echo 'ok store_goes_on_from_a_backup'; else echo \
    "not ok store_goes_on_from_a_backup: $digest, $(cat "$work/out")"; fi
