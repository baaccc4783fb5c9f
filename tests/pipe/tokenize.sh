#!/bin/sh
# Goal: the files that people have become prompts: JSON lines, plain text, HH dialogues, stored rollouts, gzipped or not, with
# their splits; and text goes to ids and back unchanged.
set -u
. tests/lib.sh
tiny_model
base=$tiny/base

# expect NAME COUNT PATTERN OPTIONS...: so many of the frames that tokenize gives match
expect() {
    expect_name=$1 expect_count=$2 expect_pattern=$3
    shift 3
    tokenize -q -m "$base" "$@" | tap >"$scratch/frames"
    expect_found=$(grep -ac -e "$expect_pattern" "$scratch/frames")
    [ "$expect_found" = "$expect_count" ] && ok "$expect_name" ||
        not_ok "$expect_name: $expect_found frames match, expected $expect_count: $(head -c 300 "$scratch/frames")"
}

printf '%s\n' '{"prompt": "One day", "split": "eval"}' '{"prompt": "Once"}' '' '{"prompt": "caf\u00e9 \ud83d\ude00"}' >"$scratch/a.jsonl"
expect "JSON lines, an empty one skipped" 3 '"type":"prompt"' "$scratch/a.jsonl"
expect "a line's own split" 1 '"split":"eval"' "$scratch/a.jsonl"
expect "--split goes before it" 3 '"split":"test"' --split test "$scratch/a.jsonl"
expect "escapes become UTF-8" 1 '"prompt":"café 😀"' "$scratch/a.jsonl"
printf '{"text": "One day"}\n' >"$scratch/b.jsonl"
expect "another field" 1 '"prompt":"One day"' --field text "$scratch/b.jsonl"
printf 'first\r\n\n  second\n' >"$scratch/c.txt"
expect "plain text, a prompt a line" 2 '"prompt":"\(first\|  second\)"' "$scratch/c.txt"
gzip -c "$scratch/a.jsonl" >"$scratch/a.jsonl.gz"
expect "a gzipped file" 3 '"type":"prompt"' "$scratch/a.jsonl.gz"
expect "several files" 5 '"type":"prompt"' "$scratch/a.jsonl" "$scratch/c.txt"

printf '%s\n' '{"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": "x"}' >"$scratch/hh.jsonl"
expect "an HH dialogue up to the last turn" 1 '"prompt":"\\n\\nHuman: a\\n\\nAssistant: b\\n\\nHuman: c\\n\\nAssistant:"' --format hh "$scratch/hh.jsonl"
if [ -d "$data/hh-rlhf" ]; then
    expect "the real HH dialogues" 2312 '"type":"prompt"' --format hh "$data/hh-rlhf/harmless-base-test.jsonl.gz"
else
    echo "skip the real HH dialogues: $data is not here"
fi

printf '%s\n' '{"prompt": "One day", "response": " Mia ran.", "score": 0.5}' '{"prompt": "Once", "response": " Tom sat."}' >"$scratch/d.jsonl"
expect "stored rollouts with a score" 1 '"type":"scored".*"reward":"stored","score":0.5' --format rollouts "$scratch/d.jsonl"
expect "each is a rollout" 2 '"type":"rollout"' --format rollouts "$scratch/d.jsonl"

tokenize -q -m "$base" --eval-fraction 0.25 "$tiny/stories.jsonl" --field text | tap >"$scratch/frames"
evals=$(grep -c '"split":"eval"' "$scratch/frames")
[ "$evals" -gt 110 ] && [ "$evals" -lt 190 ] && ok "a quarter of 600 texts is held out: $evals" || not_ok "held out $evals of 600, expected about 150"
expect "documents end with the end token" 1 '"prompt_tokens":\[0,.*,0\]' --end-token "$scratch/b.jsonl" --field text

printf '%s\n' 'One day, Mia ran.' '' '  spaces  ' 'tab	café 😀 "quotes" \n' >"$scratch/lines"
tokenize -m "$base" --encode <"$scratch/lines" >"$scratch/ids" && tokenize -m "$base" --decode <"$scratch/ids" >"$scratch/back"
same "--encode and --decode give every line back" "$scratch/lines" "$scratch/back"
