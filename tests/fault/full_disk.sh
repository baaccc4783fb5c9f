#!/bin/sh
# Goal: while the store's disk is full (here: a limit on file sizes) align.sh says why nothing goes on; with room again it completes.
set -u
. tests/lib.sh
command -v prlimit >/dev/null || { echo "skip align.sh on a full disk: needs prlimit"; exit 0; }
tiny_model

mkdir "$scratch/bin"
for program in "$BIN"/*; do
    ln -s "$program" "$scratch/bin/"
done
rm "$scratch/bin/store"
cat >"$scratch/bin/store" <<END
#!/bin/sh
[ "\$1" != serve ] || { echo \$\$ >"$scratch/pid"; ulimit -S -f 800; }
exec "$BIN/store" "\$@"
END
chmod +x "$scratch/bin/store"

BIN=$scratch/bin pipelines/align.sh --model "$tiny/base" --prompts "$tiny/prompts.jsonl" --lexicon pipelines/kind.txt \
    --work "$scratch/work" --samples 16 --eval-samples 4 --base-samples 4 --max-new-tokens 48 --betas 2 --epochs 1 \
    >"$scratch/log" 2>&1 &
align=$!
test_pids=$align
tries=0
until grep -q 'could not write store' "$scratch/log" || [ $tries -gt 600 ] || ! kill -0 "$align" 2>/dev/null; do
    sleep 0.1
    tries=$((tries + 1))
done
check "align.sh says that the store cannot be written" grep -q '^vas-store: could not write store ' "$scratch/log"
check "and that nothing is lost" grep -q 'nothing is lost' "$scratch/log"
prlimit --pid "$(cat "$scratch/pid")" --fsize=unlimited:
code=0
wait "$align" || code=$?
test_pids=
[ $code = 0 ] && ok "it completes when there is room" || not_ok "with room again it says $code: $(tail -n 1 "$scratch/log")"
check "and has said that it goes on" grep -q 'can be written again' "$scratch/log"
