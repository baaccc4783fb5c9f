#!/bin/sh
# Goal: bad input gets one clear line and the right exit code from every program, and nothing that is stored is harmed.
set -u
. tests/lib.sh
tiny_model
base=$tiny/base

for program in tokenize rollout reward value-target train decode store report tap; do
    check "$program --help" "$program" --help
    "$program" --help | head -n 1 | grep -q '^example: ' && ok "$program --help starts with an example" ||
        not_ok "$program --help starts with: $("$program" --help | head -n 1)"
done

# Command lines.
for program in tokenize rollout reward value-target train decode report tap; do
    refused "$program: unknown option" 64 'unknown option "--nonsense"' "$program" --nonsense
done
refused "an abbreviated option" 64 'unknown option "--mod"' tokenize --mod "$base"
refused "an argument that an option of every program does not take" 64 'option "--quiet=3" takes no argument' rollout --quiet=3
refused "an option without its argument" 64 'needs an argument' rollout -m
refused "an option out of range" 64 '\-\-top-p is 3, must be' rollout -m "$base" --top-p 3
refused "a store without a port" 64 'store "tcp://127.0.0.1:99999" must end in a port' rollout -m "$base" -s tcp://127.0.0.1:99999
refused "a store with half a port" 64 'must end in a port, from 1 to 65535' store status -s tcp://127.0.0.1:7070x
refused "an option that is no number" 64 'takes a whole number' rollout -m "$base" -n many
refused "store: unknown command" 64 'nonsense' store nonsense
for command in "store serve" "store keygen" "model export"; do
    refused "$command: unknown option" 64 "hint: see '$command --help'" $command --nonsense
done
refused "train without a model" 64 '\-m is missing' train
refused "a schedule that there is not" 64 'schedule is "linear"' train -m "$base" --schedule linear -o "$scratch/none"
refused "reward without a backend" 64 'lexicon' reward --name x

# Files that are missing or are something else.
refused "a model that is missing" 66 'nowhere' rollout -m "$scratch/nowhere"
refused "a prompt file that is missing" 66 'nowhere' tokenize -m "$base" "$scratch/nowhere.jsonl"
refused "a lexicon that is missing" 66 'nowhere' reward --name x --lexicon "$scratch/nowhere"
refused "a directory that is no model" 66 'json' rollout -m "$scratch"
: >"$scratch/empty.gguf"
refused "a model file that is empty" 65 'empty.gguf" .*: it is empty' decode -m "$scratch/empty.gguf" "One day"
refused "a database that is missing" 66 'nowhere' report --db "$scratch/nowhere.db"
echo 'this is not a database, whatever its name says; it is long enough to hold a header, which it does not' >"$scratch/text.db"
refused "a database that is something else" 65 'text.db' report --db "$scratch/text.db"
printf 'happy\tvery\n' >"$scratch/bad.txt"
refused "a lexicon with a bad number" 65 'line 1' reward --name x --lexicon "$scratch/bad.txt"

# Models that are damaged.
damaged() {  # a fresh copy of the model to break
    rm -rf "$scratch/model"
    cp -r "$base" "$scratch/model"
}
damaged
size=$(wc -c <"$base/model.safetensors")
head -c $((size / 2)) "$base/model.safetensors" >"$scratch/model/model.safetensors"
refused "a truncated safetensors file" 65 'model.safetensors' decode -m "$scratch/model" "One day"
damaged
printf '\377\377\377\377\377\377\377\177' | dd of="$scratch/model/model.safetensors" conv=notrunc status=none
refused "a safetensors file that lies about its header" 65 'header' decode -m "$scratch/model" "One day"
damaged
sed -i 's/"hidden_size": *32/"hidden_size": 48/' "$scratch/model/config.json"
refused "a config that does not fit its weights" 65 'shape\|head' decode -m "$scratch/model" "One day"
damaged
: >"$scratch/model/config.json"
refused "an empty config" 65 'config.json" as JSON: line 1 column 0' decode -m "$scratch/model" "One day"
damaged
sed -i 's/LlamaForCausalLM/BloomForCausalLM/; s/"llama"/"bloom"/' "$scratch/model/config.json"
refused "a model family that is not known" 65 '[Bb]loom' decode -m "$scratch/model" "One day"
damaged
printf '{"model": {"type": "BPE", "vocab": 5}}' >"$scratch/model/tokenizer.json"
refused "a bad tokenizer.json" 65 'tokenizer.json' decode -m "$scratch/model" "One day"
if [ -d "$data/stories260K" ]; then
    gguf=$data/stories260K/stories260K.gguf
    head -c 500000 "$gguf" >"$scratch/cut.gguf"
    refused "a truncated GGUF file" 65 'cut.gguf' decode -m "$scratch/cut.gguf" "One day"
    { head -c 16 "$gguf"; printf '\377\377\377\377\377\377\377\177'; tail -c +25 "$gguf"; } >"$scratch/lie.gguf"
    refused "a GGUF file that lies about its counts" 65 'lie.gguf' decode -m "$scratch/lie.gguf" "One day"
else
    echo "skip GGUF files: $data is not here"
fi
refused "a value model without a value head" 65 'value head' decode -m "$base" --value "$base:1" "One day"

# A pipeline, before it makes anything.
refused_by_align() {  # PATTERN OPTION VALUE
    align_pattern=$1
    shift
    refused "align.sh: $*" 64 "vas-align: $align_pattern" pipelines/align.sh --model "$base" \
        --prompts "$tiny/prompts.jsonl" --lexicon pipelines/kind.txt --work "$scratch/aligned" "$@"
}
refused_by_align '\-\-base-samples takes a whole number, not "x"' --base-samples x
refused_by_align '\-\-eval-fraction is 2, must be from 0 to 1' --eval-fraction 2
refused_by_align '\-\-betas takes a number, not "5,10"' --betas 5,10
refused_by_align '\-\-lambda is 3, must be from 0 to 1' --lambda 3
refused_by_align '\-\-epochs is 0, must be from 1 to' --epochs 0
refused_by_align '\-\-schedule is "linear", must be cosine or constant' --schedule linear
refused_by_align '\-\-format is "csv", must be jsonl, text, lines, hh or rollouts' --format csv
refused_by_align '\-\-reward-truncate is "middle", must be left, right or refuse' --reward-truncate middle
check "it has made nothing" test ! -e "$scratch/aligned"
mkdir "$scratch/aligned" && echo "no database" >"$scratch/aligned/store.db"
code=0
pipelines/align.sh --model "$base" --prompts "$tiny/prompts.jsonl" --lexicon pipelines/kind.txt --work "$scratch/aligned" \
    >"$scratch/out" 2>"$scratch/err" || code=$?
[ $code = 65 ] && grep -q 'store failed with code 65' "$scratch/err" && grep -q 'store.db' "$scratch/err" &&
    ok "align.sh says how its store failed" || not_ok "align.sh with a bad store: code $code, $(tr '\n' '|' <"$scratch/err")"

refused "replay.sh does not take a scorer's --help for its own" 66 'no store ".*nowhere/store.db"' \
    pipelines/replay.sh --work "$scratch/nowhere" --model "$base" --exec 'scorer --help me -h now' --reward x
check "replay.sh --help" pipelines/replay.sh --work "$scratch/nowhere" --help

# Names that a store does not have.
store_up "$scratch/named.db"
tokenize -q -m "$base" --split train "$tiny/prompts.jsonl"
rollout -q -m "$base" -n 1 --max-new-tokens 4 --policy first
reward -q --name kind --lexicon pipelines/kind.txt
store_down
refused "store export of a policy that there is not" 65 'named.db" has no policy "nosuch"' \
    store export --db "$scratch/named.db" --policy nosuch
refused "of a reward" 65 'has no reward "nosuch"' store export --db "$scratch/named.db" --reward nosuch
refused "of a split" 65 'has no split "nosuch"' store export --db "$scratch/named.db" --split nosuch
check "store export of names that there are" store export --db "$scratch/named.db" --policy first --reward kind --split train
[ "$(wc -l <"$scratch/check.out")" = 48 ] && ok "gives their rollouts" ||
    not_ok "gives $(wc -l <"$scratch/check.out") lines and not 48"
refused "store retry of a name that there is not" 65 'has no policy, reward or run "nosuch"' \
    store retry --db "$scratch/named.db" --name nosuch
check "store retry of a policy" store retry --db "$scratch/named.db" --name first
check "store retry of a reward" store retry --db "$scratch/named.db" --name kind

# Prompts.
yes 'One day, Mia the fox ran to the park.' | head -n 60 | tr '\n' ' ' >"$scratch/long.txt"
refused "a prompt longer than the context" 65 'context' decode -m "$base" "$(cat "$scratch/long.txt")"
printf '{"prompt": "One day"}\n{"promt": "typo"}\nnonsense\n' >"$scratch/mixed.jsonl"
tokenize -q -m "$base" "$scratch/mixed.jsonl" >"$scratch/mixed" 2>"$scratch/mixed.err"
[ $? = 65 ] && [ "$(tap <"$scratch/mixed" | wc -l)" = 1 ] && grep -q 'line 2' "$scratch/mixed.err" &&
    grep -q 'line 3' "$scratch/mixed.err" &&
    ok "bad lines are named and left out, good ones are used" || not_ok "bad lines: $(tr '\n' '|' <"$scratch/mixed.err")"

printf 'One day\n\0two\nthr\0ee\nA fox\n' >"$scratch/nul.txt"
tokenize -q -m "$base" "$scratch/nul.txt" >"$scratch/nul" 2>"$scratch/nul.err"
[ $? = 65 ] && [ "$(tap <"$scratch/nul" | wc -l)" = 2 ] && grep -q 'line 2' "$scratch/nul.err" &&
    grep -q 'line 3' "$scratch/nul.err" &&
    ok "a NUL spoils its own line and no other" || not_ok "NULs: $(tr '\n' '|' <"$scratch/nul.err")"
decode -q -m "$base" --json --max-new-tokens 2 "$scratch/nul.txt" >"$scratch/nul" 2>"$scratch/nul.err"
[ $? = 65 ] && [ "$(grep -c '"response"' "$scratch/nul")" = 2 ] && grep -q 'line 2 of .*: prompt has a NUL' "$scratch/nul.err" &&
    grep -q 'line 3 of' "$scratch/nul.err" &&
    ok "for decode too" || not_ok "NULs in decode: $(tr '\n' '|' <"$scratch/nul.err")"
printf '{"prompt": "One day", "response": " a fox", "score": 1e300}\n' >"$scratch/score.jsonl"
tokenize -q -m "$base" --format rollouts "$scratch/score.jsonl" >"$scratch/out" 2>"$scratch/err"
[ $? = 65 ] && grep -q 'line 1: field "score"' "$scratch/err" && ok "a score that no frame can carry" ||
    not_ok "a score that no frame can carry: $(head -n 1 "$scratch/err")"
refused "a name that is not UTF-8" 64 'must be UTF-8' value-target --policy "$(printf '\377')"
refused "a split of what comes through a pipe" 64 'split are for a store' value-target --split train

# Frames that are none.
head -c 5000 /dev/urandom >"$scratch/noise"
printf '\201\241v\001' >>"$scratch/noise"
rollout -q -m "$base" <"$scratch/noise" >"$scratch/out" 2>"$scratch/err"
[ $? = 65 ] && [ ! -s "$scratch/out" ] && ok "noise instead of frames" ||
    not_ok "noise instead of frames: $(head -n 1 "$scratch/err")"
tokenize -q -m "$base" "$tiny/prompts.jsonl" | head -c 3000 | rollout -q -m "$base" -n 1 --max-new-tokens 2 >"$scratch/out" \
    2>"$scratch/err"
[ $? = 65 ] && [ -s "$scratch/out" ] && ok "a stream that is cut: what was whole is used" ||
    not_ok "a stream that is cut: $(head -n 1 "$scratch/err")"

# Output that cannot be written.
tokenize -q -m "$base" "$tiny/prompts.jsonl" >/dev/full 2>"$scratch/err"
[ $? = 74 ] && [ "$(wc -l <"$scratch/err")" = 1 ] && ok "a full disk behind stdout" ||
    not_ok "a full disk behind stdout: $(tr '\n' '|' <"$scratch/err")"
decode -q -m "$base" --max-new-tokens 4 "One day" >/dev/full 2>"$scratch/err"
[ $? = 74 ] && ok "a full disk behind decode" || not_ok "a full disk behind decode: $(tr '\n' '|' <"$scratch/err")"

# A reader that goes away ends who writes, also while there is more to read.
gone() {  # NAME LINE COMMAND...
    name=$1 line=$2
    shift 2
    yes "$line" 2>/dev/null | { timeout 20 "$@" 2>"$scratch/err"; echo $? >"$scratch/code"; } | head -n 1 >/dev/null
    [ "$(cat "$scratch/code")" = 74 ] && grep -q 'could not write standard output: Broken pipe' "$scratch/err" && ok "$name" ||
        not_ok "$name: code $(cat "$scratch/code"), $(head -n 1 "$scratch/err")"
}
gone "nobody reads decode's text" "Tom had a" decode -q -m "$base" --max-new-tokens 4 -
gone "nobody reads decode's JSON" "Tom had a" decode -q -m "$base" --max-new-tokens 4 --json -
gone "nobody reads decode's scores" '{"tokens":[0,1,2]}' decode -q -m "$base" --score -
gone "nobody reads tokenize's ids" "Tom had a" tokenize -q -m "$base" --encode
gone "nobody reads tokenize's text" "[1, 2]" tokenize -q -m "$base" --decode
mkfifo "$scratch/unread"
stopped() {  # NAME: decode ends by itself
    (sleep 20; kill -KILL "$test_pids") 4<&- >/dev/null 2>&1 &
    test_watch=$!
    wait "$test_pids"
    code=$?
    kill "$test_watch" 2>/dev/null
    test_pids=
    [ $code = 75 ] && ok "$1" || not_ok "$1: code $code"
}
unread() {  # NAME LINE: lines of which more are answered at once than the pipe has room for
    yes "$2" | head -n 4000 >"$scratch/asked"
    decode -q -m "$base" --max-new-tokens 4 --batch 256 --json "$scratch/asked" >"$scratch/unread" 2>"$scratch/err" &
    test_pids=$!
    exec 4<"$scratch/unread"
    read -r _ <&4
    sleep 1  # the pipe is full
    kill -TERM "$test_pids"
    stopped "$1"
    exec 4<&-
}
unread "a signal stops decode while nobody reads" "Tom had a"
unread "also where it refuses line after line" "{nonsense"
exec 4<>"$scratch/unread"
timeout 1 cat /dev/zero >&4  # the pipe is full
{ echo '{nonsense'; yes '{},' | head -n 8000000 | tr -d '\n' | fold -w 600000 | sed 's/^/{"":[/'; } >"$scratch/asked"
rm "$scratch/err"
decode -q -m "$base" --json "$scratch/asked" >"$scratch/unread" 2>"$scratch/err" &
test_pids=$!
until_true test -s "$scratch/err"
kill -TERM "$test_pids"  # while it reads what it will refuse
stopped "before it has to wait for a reader too"
exec 4<&-

# A reward command that misbehaves.
tokenize -q -m "$base" "$scratch/mixed.jsonl" 2>/dev/null | rollout -q -m "$base" -n 2 --max-new-tokens 4 >"$scratch/rollouts"
reward -q --name x --exec 'echo nonsense' <"$scratch/rollouts" >"$scratch/out" 2>"$scratch/err"
code=$?
[ $code = 65 ] && [ "$(tap <"$scratch/out" | grep -ac '"type":"scored"')" = 0 ] && ok "a reward command that prints no number" ||
    not_ok "a reward command that prints no number: code $code"
