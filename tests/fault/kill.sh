#!/bin/sh
# Goal: kill -9 of any one worker or of the store in the middle of align.sh, then the same command again: it completes, and the
# store holds the same rows as that of a run that was never disturbed.  A program may have ended before it is met: then it is not killed.
set -u
. tests/lib.sh
tiny_model

# The same command every time but for the directory; a script of its own, so that it can lead a session.
cat >"$scratch/align" <<END
#!/bin/sh
exec pipelines/align.sh --model "$tiny/base" --prompts "$tiny/prompts.jsonl" --lexicon pipelines/kind.txt --reward kind --work "\$1" \
    --samples 32 --eval-samples 16 --base-samples 16 --max-new-tokens 96 --betas '2 8' --epochs 2 --batch 32 --checkpoint-every 8
END

# The process of a program in a session that this test started; empty when there is none (any more).
process_in() {  # process_in SESSION PROGRAM
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue
        after=${line##*) }
        set -- "$1" "$2" $after
        [ "$6" = "$1" ] || continue
        name=${line#*(}
        [ "${name%)*}" = "$2" ] && echo "${line%% *}" && return
    done
}

sh "$scratch/align" "$scratch/whole" >"$scratch/whole.log" 2>&1 || { not_ok "the undisturbed run: $(tail -n 1 "$scratch/whole.log")"; exit 1; }
ok "the undisturbed run completes"

kills=0
for program in tokenize rollout store reward value-target train store decode reward; do
    setsid sh "$scratch/align" "$scratch/killed" >"$scratch/killed.log" 2>&1 &
    session=$!
    test_pids="$session"
    victim=
    while [ -z "$victim" ] && kill -0 "$session" 2>/dev/null; do
        victim=$(process_in "$session" "$program")
    done
    [ "$program" = tokenize ] || sleep 0.1  # into its work
    if [ -n "$victim" ] && kill -KILL "$victim" 2>/dev/null; then
        kills=$((kills + 1))
    fi
    code=0
    wait "$session" || code=$?
    test_pids=
    case $code in
    0 | 75) ;;
    *) not_ok "align.sh after kill -9 of $program exited with $code: $(tail -n 1 "$scratch/killed.log")" ;;
    esac
done
[ $kills -ge 3 ] && ok "$kills processes were killed" || not_ok "only $kills processes were killed"

check "the same command again completes" sh "$scratch/align" "$scratch/killed"
store digest --db "$scratch/whole/store.db" >"$scratch/whole.digest"
store digest --db "$scratch/killed/store.db" >"$scratch/killed.digest"
same "the store holds the same content" "$scratch/whole.digest" "$scratch/killed.digest"
same "the value model has the same bytes" "$scratch/whole/value-kind/model.safetensors" "$scratch/killed/value-kind/model.safetensors"
