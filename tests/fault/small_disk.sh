#!/bin/sh
# Goal: a store on a disk of a few MiB takes what fits there: its log, which is written again and again, leaves the data room.
set -u
. tests/lib.sh
alone='unshare --mount'
$alone true 2>/dev/null || alone='unshare --map-root-user --mount'
mkdir "$scratch/disk"
$alone mount -t tmpfs -o size=1m tmpfs "$scratch/disk" 2>/dev/null ||
    { echo "skip a store on a small disk: no file system can be mounted here"; exit 0; }
tiny_model

cat >"$scratch/fill" <<END
set -eu
mount -t tmpfs -o size=8m tmpfs "$scratch/disk"
store serve -q --db "$scratch/disk/run.db" --listen "ipc://$scratch/sock" &
served=\$!
export VAS_STORE="ipc://$scratch/sock"
tokenize -q -m "$tiny/base" --eval-fraction 0 "$tiny/prompts.jsonl"
rollout -q -m "$tiny/base" -n 40 --max-new-tokens 16 --batch 2
reward -q --name kind --lexicon pipelines/kind.txt
kill \$served
wait \$served
store status --db "$scratch/disk/run.db"
END
timeout 120 $alone sh "$scratch/fill" >"$scratch/status" 2>"$scratch/log"
code=$?
prompts=$(awk '$1 == "tokenize" && $3 == "train" { print $4 }' "$scratch/status")
scores=$(awk '$1 == "reward" { print $3 }' "$scratch/status")
[ $code = 0 ] && [ "${scores:-0}" -gt 0 ] && [ "${scores:-0}" = $((40 * ${prompts:-0})) ] &&
    ok "a disk of 8 MiB holds $scores responses and their scores" ||
    not_ok "exit $code, $scores scores of $prompts prompts: $(tail -n 2 "$scratch/log" | tr '\n' '|')"
grep -q 'could not write' "$scratch/log" && not_ok "it filled the disk: $(head -n 1 "$scratch/log")" || ok "it never filled it"
