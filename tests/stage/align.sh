#!/bin/sh
# Goal: align.sh says at once when it cannot do its work, goes on where it can, and its exit code says whether the same command
# helps.
set -u
. tests/lib.sh
tiny_model

# align NAME OPTIONS...: in $scratch/NAME, at most a minute; its code is in $code, what it says in $scratch/err
align() {
    align_work=$scratch/$1
    shift
    code=0
    timeout 60 pipelines/align.sh --model "$tiny/base" --lexicon pipelines/kind.txt --reward kind --work "$align_work" \
        --samples 2 --eval-samples 2 --base-samples 2 --max-new-tokens 12 --betas 2 --epochs 1 "$@" \
        >"$scratch/out" 2>"$scratch/err" || code=$?
}

# says NAME CODE PATTERN...: what align did
says() {
    says_name=$1 says_code=$2
    shift 2
    [ $code = "$says_code" ] || { not_ok "$says_name: code $code, expected $says_code: $(tail -n 2 "$scratch/err" | tr '\n' '|')"; return; }
    for pattern in "$@"; do
        grep -q -e "$pattern" "$scratch/err" ||
            { not_ok "$says_name: nothing like '$pattern' in: $(tr '\n' '|' <"$scratch/err")"; return; }
    done
    ok "$says_name"
}

# Splits without prompts.
head -n 8 "$tiny/prompts.jsonl" | sed 's/,"split":"[a-z]*"//' >"$scratch/few.jsonl"
sed 's/}$/,"split":"eval"}/' "$scratch/few.jsonl" >"$scratch/eval.jsonl"
: >"$scratch/empty.jsonl"
align split --prompts "$scratch/few.jsonl" --eval-fraction 1
says "no prompt to train on" 65 '^vas-align: no prompt is in the split train' '^hint: .*smaller --eval-fraction'
align split --prompts "$scratch/few.jsonl" --eval-fraction 1e-9
says "no prompt to evaluate on" 65 '^vas-align: no prompt is in the split eval' '^hint: .*--eval-fraction 0.5'
align split --prompts "$scratch/few.jsonl" --eval-fraction 0.5
says "its hint helps in the same directory" 0 'report: '
align eval --prompts "$scratch/eval.jsonl"
says "lines that are all for evaluation" 65 'no prompt is in the split train'
align empty --prompts "$scratch/empty.jsonl" --eval-fraction 0
says "an empty file" 65 'no prompt is in the split train'
mkdir "$scratch/kept"
store_up "$scratch/kept/store.db"
tokenize -q -m "$tiny/base" --split eval "$scratch/few.jsonl"
store_down
align kept --prompts "$scratch/few.jsonl"
says "prompts that were stored before" 65 'no prompt is in the split train' '^hint: prompts that are stored keep their split: another --work'
check "they are kept" test -s "$scratch/kept/store.db"

# Lines that are none.
{ cat "$scratch/few.jsonl"; echo nonsense; } >"$scratch/mixed.jsonl"
align mixed --prompts "$scratch/mixed.jsonl" --eval-fraction 0.5
says "a bad line is left out" 0 'line 9' 'report: ' '^align: some lines of ".*mixed.jsonl" could not be used'
tail -n 1 "$scratch/err" | grep -q 'could not be used' && ok "which is said at the end" ||
    not_ok "the last line is: $(tail -n 1 "$scratch/err")"
echo nonsense >"$scratch/bad.jsonl"
align bad --prompts "$scratch/bad.jsonl"
says "lines that are all bad" 65 'line 1' '^vas-align: no prompt of ".*bad.jsonl" could be used'

# More prompts than the run was planned for.
align later --prompts "$scratch/few.jsonl" --eval-fraction 0.5
grep -q 'after it was planned' "$scratch/err" && not_ok "a new run leaves prompts out" || ok "a new run leaves nothing out"
sed 's/,"split":"[a-z]*"//' "$tiny/prompts.jsonl" >"$scratch/more.jsonl"
align later --prompts "$scratch/more.jsonl" --eval-fraction 0.5
says "prompts that a run does not train on are said" 0 \
    'run "kind" does not train on [0-9]* prompts that were stored after it was planned' '^hint: another --run'
align later --prompts "$scratch/more.jsonl" --eval-fraction 0.5 --run again
grep -q 'after it was planned' "$scratch/err" && not_ok "its hint does not help" || says "its hint helps" 0 'report: '

# The first of the jobs of slurm/align.sh.
store_up "$scratch/cluster.db"
first_job() {  # PROMPTS
    code=0
    pipelines/slurm/tokenize.sh "$1" 0.5 tokenize -q -m "$tiny/base" --eval-fraction 0.5 "$1" >"$scratch/out" 2>"$scratch/err" ||
        code=$?
}
first_job "$scratch/eval.jsonl"
says "a job says that there is no prompt to train on" 65 'no prompt is in the split train' '^hint: prompts that are stored'
{ cat "$tiny/prompts.jsonl"; echo nonsense; } >"$scratch/mixed.jsonl"
first_job "$scratch/mixed.jsonl"
says "and that a bad line is left out" 0 'could not be used and were left out'
store_down

# A store that another pipeline serves: its log is in the same place.
mkdir -p "$scratch/served/log"
store serve --db "$scratch/served/store.db" 2>"$scratch/served/log/store" &
served=$!
test_pids=$served
wait_for "$scratch/served/store.db.sock"
align served --prompts "$scratch/few.jsonl" --eval-fraction 0.5
says "a second align.sh says why it cannot work" 69 'store failed with code 69' 'is served by another process already'
store status --db "$scratch/served/store.db" | grep -q '^tokenize' && not_ok "it has put prompts into the other's store" ||
    ok "and leaves the other's store alone"
kill -TERM $served
wait $served
test_pids=
