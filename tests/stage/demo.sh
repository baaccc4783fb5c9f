#!/bin/sh
# Goal: the README's main command does the main job: the mean score rises with beta, three prompts are shown side by
# side, and a second run reuses everything.
set -u
. tests/lib.sh

pipelines/demo.sh "$scratch/demo" >"$scratch/first" 2>"$scratch/first.err"
code=$?
[ $code = 0 ] && ok "the demo completes" || not_ok "the demo exited with $code: $(tail -n 1 "$scratch/first.err")"

# Columns: policy, responses, mean score.
awk '$1 == "base" { base = $3 } $1 == "kind" && /beta=/ { sub("beta=", "", $2); print $2, $4; n++ }
    END { print 0, base; exit n != 4 }' "$scratch/first" | sort -n >"$scratch/means"
awk 'NR > 1 && $2 <= last { exit 1 } { last = $2 } END { exit NR != 5 }' "$scratch/means" && ok "the mean score rises with beta" ||
    not_ok "the mean score does not rise with beta: $(tr '\n' ';' <"$scratch/means")"
awk '$1 == "best" && $3 == 16 { best = $4 } $1 == "kind" && $4 > top { top = $4 } END { exit !(top >= best && best > 0.5) }' \
    "$scratch/first" &&
    ok "one strength reaches best-of-16" ||
    not_ok "no strength reaches best-of-16: $(grep -e 'of 16' -e beta "$scratch/first" | tr '\n' ';')"
[ "$(grep -c '^prompt: ' "$scratch/first")" = 3 ] && ok "three prompts are shown" ||
    not_ok "prompts shown: $(grep -c '^prompt: ' "$scratch/first")"
grep -q '<svg' "$scratch/demo/report.html" && ok "the report has pictures" || not_ok "the report has no pictures"

store digest --db "$scratch/demo/store.db" >"$scratch/digest"
pipelines/demo.sh "$scratch/demo" >"$scratch/second" 2>"$scratch/second.err"
code=$?
[ $code = 0 ] && [ "$(grep -c 'reusing' "$scratch/second.err")" = 2 ] && ok "a second run says what it reuses" ||
    not_ok "a second run exited with $code: $(tail -n 1 "$scratch/second.err")"
store digest --db "$scratch/demo/store.db" >"$scratch/digest-again"
same "a second run changes nothing in the store" "$scratch/digest" "$scratch/digest-again"
same "a second run ends with the same table" "$scratch/first" "$scratch/second"
