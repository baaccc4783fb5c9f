#!/bin/sh
# Goal: reward hands on every rollout with its score, or says why not, whichever way it scores and whatever the command does.
set -u
. tests/lib.sh
tiny_model

for who in Mia Tom Lily Ben Anna; do
    echo "{\"prompt\":\"One day, $who the fox\"}"
done >"$scratch/prompts.jsonl"
tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl" | rollout -q -m "$tiny/base" -n 4 --max-new-tokens 24 >"$scratch/rollouts"

# The frames of this type as JSON lines; the stream has others too.
frames() {
    tap <"$2" | grep "^{\"type\":\"$1\""
}
scores() {
    frames scored "$1" | sed 's/.*"score":\([-+.0-9e]*\).*/\1/'
}

reward -q --name kind --lexicon pipelines/kind.txt <"$scratch/rollouts" >"$scratch/scored"
check "a word list scores" test "$(scores "$scratch/scored" | wc -l)" = 20
frames scored "$scratch/scored" | sed 's/"type":"scored"/"type":"rollout"/; s/,"reward":.*}$/}/' >"$scratch/handed_on"
frames rollout "$scratch/rollouts" >"$scratch/rollouts.expected"
same "every field of the rollouts is handed on" "$scratch/handed_on" "$scratch/rollouts.expected"

# The length of the line, by a command: first with the whole of it, then with small batches.
lines='while IFS= read -r line; do echo ${#line}; done'
reward -q --name length --exec "$lines" <"$scratch/rollouts" >"$scratch/by_command"
check "a command scores" test "$(scores "$scratch/by_command" | wc -l)" = 20
reward -q --name length --batch 3 --exec "$lines" <"$scratch/rollouts" >"$scratch/by_batches"
frames scored "$scratch/by_command" >"$scratch/by_command.jsonl"
frames scored "$scratch/by_batches" >"$scratch/by_batches.jsonl"
same "the size of the batch changes nothing" "$scratch/by_command.jsonl" "$scratch/by_batches.jsonl"
reward -q --name length --scale -2 --exec "$lines" <"$scratch/rollouts" >"$scratch/scaled"
scores "$scratch/by_command" | awk '{ print -2 * $1 }' >"$scratch/doubled"
scores "$scratch/scaled" | awk '{ print $1 + 0 }' >"$scratch/scaled.scores"
same "--scale multiplies" "$scratch/doubled" "$scratch/scaled.scores"

# A response without a score: refused by name, the others go on.
code=0
reward --name odd --exec 'n=0; while read -r line; do n=$((n + 1)); [ $n = 7 ] && echo nan || echo $n; done' \
    <"$scratch/rollouts" >"$scratch/odd" 2>"$scratch/odd.err" || code=$?
check "a response that cannot be scored makes it 65" test "$code" = 65
check "the others are scored" test "$(scores "$scratch/odd" | wc -l)" = 19
grep -q 'not finite: line 7 is "nan"' "$scratch/odd.err" && ok "its reason names the line" ||
    not_ok "its reason names the line: $(cat "$scratch/odd.err")"

# A command of no use.
code=0
reward -q --name none --exec /nowhere/scorer <"$scratch/rollouts" >"$scratch/none" 2>"$scratch/none.err" || code=$?
check "a command that cannot be run makes it 69" test "$code" = 69
grep -q 'not found' "$scratch/none.err" && ok "the shell's words are shown" ||
    not_ok "the shell's words are shown: $(cat "$scratch/none.err")"

# A signal while the command hangs: what has no score is left, and the command ends.
reward -q --name slow --exec 'echo $$ >'"$scratch/pid"'; exec sleep 600' <"$scratch/rollouts" >"$scratch/slow" &
pid=$!
test_pids=$pid
until_true test -s "$scratch/pid"
kill -TERM "$pid"
code=0
wait "$pid" || code=$?
check "a signal ends it with 75 though the command hangs" test "$code" = 75
kill -0 "$(cat "$scratch/pid")" 2>/dev/null && not_ok "the command ends with it" || ok "the command ends with it"

# Another stream's frames pass through.
tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl" >"$scratch/prompts"
cat "$scratch/prompts" "$scratch/rollouts" | reward -q --name kind --lexicon pipelines/kind.txt >"$scratch/mixed"
check "frames of other types pass through" test "$(tap <"$scratch/mixed" | grep -c '"type":"prompt"')" = 5
refused "a name that is too long" 64 '1 to 128 bytes' reward --lexicon pipelines/kind.txt --name "$(printf '%0200d' 0)"
refused "two ways to score" 64 'only one scorer' reward --name x --lexicon pipelines/kind.txt --exec cat
refused "a join that is not UTF-8" 64 'not UTF-8' \
    reward --name x -m tests/parity/hh/chat_reward --label 0 --join "$(printf '{response}\377')"
refused "a command that no frame holds" 64 'must have at most 65536' \
    reward --name x --exec "true #$(printf '%070000d' 0)" -s "ipc://$scratch/none"
