# lib.sh - a store and its workers in one shell script: start, supervise, stop.
#
# Source it, set work (the directory of a pipeline's store and models), then:
#
#     store_start                    starts the store on $work/store.db, sets VAS_STORE
#     worker NAME COMMAND...         a worker in the background; restarted when it exits with 75 and on nothing else
#     foreground NAME COMMAND...     the same in the foreground; watches the others meanwhile
#     foreground_or CODE NAME COMMAND...    the same, and CODE is no failure; which it was, 0 or CODE, is in $foreground_code
#     workers_wait                   until the workers in the background have ended
#     workers_stop                   asks them to finish what they hold
#
# When one of them ends otherwise, all are stopped and the script exits with 75 (run it again: the store has what was
# committed), with the worker's own code, or with 70 when the worker crashed.  Logs are in $work/log/NAME.

bin=${BIN:-bin}
PATH=$(cd "$bin" && pwd):$PATH
export PATH

say() {
    printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
}

lib_workers=
lib_store=
lib_front=
lib_also=

# Runs in the background: one worker, started again as long as it exits with 75, at most 20 times.
lib_supervise() {
    lib_name=$1
    shift
    lib_child=
    lib_stopping=
    trap 'lib_stopping=1; [ -z "$lib_child" ] || kill -TERM "$lib_child" 2>/dev/null' TERM INT
    lib_tries=0
    while :; do
        "$@" 2>>"$work/log/$lib_name" &
        lib_child=$!
        lib_code=0
        wait "$lib_child" || lib_code=$?
        while kill -0 "$lib_child" 2>/dev/null; do  # wait was interrupted by the trap
            lib_code=0
            wait "$lib_child" || lib_code=$?
        done
        lib_tries=$((lib_tries + 1))
        [ "$lib_code" = 75 ] && [ -z "$lib_stopping" ] && [ "$lib_tries" -lt 20 ] || break
        sleep 1
    done
    [ -z "$lib_stopping" ] || lib_code=0
    exit "$lib_code"
}

worker() {
    mkdir -p "$work/log"
    ( lib_supervise "$@" ) &
    lib_workers="$lib_workers $1:$!"
}

store_start() {
    mkdir -p "$work/log"
    VAS_STORE=ipc://$work/store.db.sock
    export VAS_STORE
    : >>"$work/log/store"
    exec 3<"$work/log/store"
    while read -r lib_line <&3; do :; done  # of earlier runs
    store serve --db "$work/store.db" --listen "$VAS_STORE" 2>>"$work/log/store" &
    lib_store=$!
    trap 'lib_stop_all' EXIT
    trap 'exit 75' INT TERM HUP
    lib_serves=
    until lib_watch; [ -n "$lib_serves" ]; do  # before that, workers would find a store of somebody else
        sleep 0.05
    done
}

store_stop() {
    [ -n "$lib_store" ] || return 0
    kill -TERM "$lib_store" 2>/dev/null || :  # Ctrl-C ends it too
    wait "$lib_store" 2>/dev/null || :
    lib_store=
}

lib_stop_all() {
    lib_exit=$?
    trap - EXIT
    workers_stop
    store_stop
    exit "$lib_exit"
}

workers_stop() {
    for lib_worker in $lib_workers; do
        kill -TERM "${lib_worker##*:}" 2>/dev/null || :
    done
    for lib_worker in $lib_workers; do
        wait "${lib_worker##*:}" 2>/dev/null || :
    done
    lib_workers=
}

# What a worker's end means for the script.
lib_judge() {
    [ "$1" != "$lib_front" ] || foreground_code=$2
    [ "$2" != 0 ] && [ "$1:$2" != "$lib_front:$lib_also" ] || return 0
    lib_fatal=$2
    case $2 in
    75 | 129 | 130 | 137 | 143)
        say "$1 was ended from outside (code $2); what the store has is kept"
        say "run the same command again to go on"
        exit 75 ;;
    *)
        say "$1 failed with code $2"
        [ "$2" -le 128 ] || lib_fatal=70  # a signal of its own making
        if [ "$1" != "$lib_front" ] && [ -f "$work/log/$1" ]; then
            say "its last words, from $work/log/$1:"
            tail -n 5 "$work/log/$1" >&2
        fi
        exit "$lib_fatal" ;;
    esac
}

# What the store says that who looks at the terminal should know: all wait while it cannot be written, for a disk that is full as a
# rule, and a run that is planned does not train on more prompts.
lib_hear() {
    while IFS= read -r lib_line <&3; do
        case $lib_line in
        "vas-store: serving "*) lib_serves=1 ;;
        *"could not write store"* | "hint: nothing is lost"* | *"can be written again"* | \
            *"were stored after it was planned" | "hint: another --run"*) printf '%s\n' "$lib_line" >&2 ;;
        esac
    done
}

# Forgets workers that ended well; ends the script when one ended badly, or the store did.
lib_watch() {
    [ -z "$lib_store" ] || lib_hear
    if [ -n "$lib_store" ] && ! kill -0 "$lib_store" 2>/dev/null; then
        lib_code=0
        wait "$lib_store" || lib_code=$?
        lib_store=
        [ "$lib_code" != 0 ] || lib_code=75  # somebody has ended it
        lib_judge store "$lib_code"
    fi
    lib_left=
    for lib_worker in $lib_workers; do
        if kill -0 "${lib_worker##*:}" 2>/dev/null; then
            lib_left="$lib_left $lib_worker"
        else
            lib_code=0
            wait "${lib_worker##*:}" || lib_code=$?
            lib_judge "${lib_worker%%:*}" "$lib_code"
        fi
    done
    lib_workers=$lib_left
}

# In the background too, so that the others can be watched; its messages go to the terminal.
foreground() {
    lib_front=$1
    shift
    "$@" &
    lib_pid=$!
    lib_workers="$lib_workers $lib_front:$lib_pid"
    while kill -0 "$lib_pid" 2>/dev/null; do
        lib_watch
        sleep 0.2
    done
    lib_watch
}

foreground_or() {
    lib_also=$1
    shift
    foreground "$@"
    lib_also=
}

workers_wait() {
    while [ -n "$lib_workers" ]; do
        lib_watch
        sleep 0.2
    done
}
