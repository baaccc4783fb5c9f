#!/bin/sh
# Goal: kill -9 of any one worker or of the store in the middle of align.sh, then the same command again: it completes, and the
# store holds the same rows as that of a run that was never disturbed.
set -u
. tests/lib.sh
tiny_model

# The same command every time but for the directory; a script of its own, so that it can lead a session.
cat >"$scratch/align" <<END
#!/bin/sh
exec pipelines/align.sh --model "$tiny/base" --prompts "$tiny/prompts.jsonl" --lexicon pipelines/kind.txt --reward kind \
    --work "\$1" --samples 32 --eval-samples 16 --base-samples 16 --max-new-tokens 96 --betas '2 8' --epochs 2 --batch 32 \
    --checkpoint-every 8
END

# Programs that say under which process id they work, since one that has little to do is gone before anybody has looked for it.
mkdir "$scratch/bin"
for program in "$BIN"/*; do
    printf '#!/bin/sh\ncase " $*" in *" --help") ;; *) echo $$ >"%s/pid.%s" ;; esac\nexec "%s" "$@"\n' \
        "$scratch" "$(basename "$program")" "$program" \
        >"$scratch/bin/$(basename "$program")"
    chmod +x "$scratch/bin/$(basename "$program")"
done

sh "$scratch/align" "$scratch/whole" >"$scratch/whole.log" 2>&1 ||
    { not_ok "the undisturbed run: $(tail -n 1 "$scratch/whole.log")"; exit 1; }
ok "the undisturbed run completes"

# One that was done before it could be killed has another try, in a run from the beginning: what is complete has no middle.
kills=0
for program in tokenize rollout store reward value-target train store decode reward; do
    for try in 1 2 3; do
        rm -f "$scratch/pid.$program"
        BIN=$scratch/bin setsid sh "$scratch/align" "$scratch/killed" >"$scratch/killed.log" 2>&1 &
        session=$!
        test_pids="$session"
        while [ ! -s "$scratch/pid.$program" ] && kill -0 "$session" 2>/dev/null; do
            sleep 0.01
        done
        [ "$program" = tokenize ] || sleep 0.1  # into its work
        killed=
        if kill -KILL "$(cat "$scratch/pid.$program")" 2>/dev/null; then
            killed=1
        fi
        code=0
        wait "$session" || code=$?
        test_pids=
        case $code in
        0 | 75) ;;
        *) not_ok "align.sh after kill -9 of $program exited with $code: $(tail -n 1 "$scratch/killed.log")" ;;
        esac
        [ -z "$killed" ] || break
        rm -rf "$scratch/killed"
    done
    [ -z "$killed" ] || kills=$((kills + 1))
done
[ $kills -ge 8 ] && ok "$kills processes were killed" || not_ok "only $kills processes were killed"

check "the same command again completes" sh "$scratch/align" "$scratch/killed"
store digest --db "$scratch/whole/store.db" >"$scratch/whole.digest"
store digest --db "$scratch/killed/store.db" >"$scratch/killed.digest"
same "the store holds the same content" "$scratch/whole.digest" "$scratch/killed.digest"
same "the value model has the same bytes" "$scratch/whole/value-kind/model.safetensors" \
    "$scratch/killed/value-kind/model.safetensors"

# Ctrl-C reaches the store and the workers as well.
rm -f "$scratch/pid.rollout"
BIN=$scratch/bin env --default-signal=INT setsid sh "$scratch/align" "$scratch/interrupted" >"$scratch/interrupted.log" 2>&1 &
session=$!
test_pids="$session"
until_true test -s "$scratch/pid.rollout"
sleep 0.1
kill -s INT -- "-$session"
code=0
wait "$session" || code=$?
test_pids=
[ $code = 75 ] && ok "align.sh says on Ctrl-C that the same command goes on" ||
    not_ok "on Ctrl-C it exited with $code: $(tail -n 1 "$scratch/interrupted.log")"

# A worker that crashes would crash again.
cat >"$scratch/bin/rollout" <<'END'
#!/bin/sh
case " $* " in *" --help ") exit 0 ;; esac
ulimit -c 0
echo "vas-rollout: something is wrong" >&2
kill -SEGV $$
END
code=0
BIN=$scratch/bin timeout 60 sh "$scratch/align" "$scratch/crashed" >"$scratch/crashed.log" 2>&1 || code=$?
[ $code = 70 ] && grep -q 'rollout failed with code 139' "$scratch/crashed.log" &&
    grep -q 'vas-rollout: something is wrong' "$scratch/crashed.log" && ! grep -q 'same command' "$scratch/crashed.log" &&
    ok "a worker that crashes is a failure, with its last words" ||
    not_ok "a worker crashed and align.sh exited with $code: $(tail -n 2 "$scratch/crashed.log" | tr '\n' '|')"
