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

printf '%s\n' '{"prompt": "One day", "split": "eval"}' '{"prompt": "Once"}' '' '{"prompt": "caf\u00e9 \ud83d\ude00"}' \
    >"$scratch/a.jsonl"
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
{ printf '\357\273\277'; cat "$scratch/a.jsonl"; } >"$scratch/marked.jsonl"
expect "JSON lines behind a byte order mark" 3 '"type":"prompt"' "$scratch/marked.jsonl"
printf '\357\273\277first\n' | gzip -c >"$scratch/marked.txt.gz"
expect "a gzipped text behind one" 1 '"prompt":"first"' --format text "$scratch/marked.txt.gz"
expect "several files" 5 '"type":"prompt"' "$scratch/a.jsonl" "$scratch/c.txt"

printf '%s\n' '{"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": "x"}' >"$scratch/hh.jsonl"
expect "an HH dialogue up to the last turn" 1 '"prompt":"\\n\\nHuman: a\\n\\nAssistant: b\\n\\nHuman: c\\n\\nAssistant:"' \
    --format hh "$scratch/hh.jsonl"
if [ -d "$data/hh-rlhf" ]; then
    expect "the real HH dialogues" 2312 '"type":"prompt"' --format hh "$data/hh-rlhf/harmless-base-test.jsonl.gz"
else
    echo "skip the real HH dialogues: $data is not here"
fi

printf '%s\n' '{"prompt": "One day", "response": " Mia ran.", "score": 0.5}' '{"prompt": "Once", "response": " Tom sat."}' \
    >"$scratch/d.jsonl"
expect "stored rollouts with a score" 1 '"type":"scored".*"reward":"stored","score":0.5' --format rollouts "$scratch/d.jsonl"
expect "each is a rollout" 2 '"type":"rollout"' --format rollouts "$scratch/d.jsonl"

# A response that the length limit cut, as store export tells it, did not end where the end token would say so.
printf '%s\n' '{"prompt": "One day", "response": " Mia ran", "stopped": false, "score": null, "split": null}' \
    '{"prompt": "One day", "response": " Mia ran.", "stopped": true}' >"$scratch/cut.jsonl"
expect "a response that was cut gets no end token" 1 '"response":" Mia ran\.","response_tokens":\[[0-9,]*,0\],"stopped":1' \
    --format rollouts "$scratch/cut.jsonl"
expect "and no other ends" 1 '"stopped":1\|"response_tokens":\[[0-9,]*,0\]' --format rollouts "$scratch/cut.jsonl"
store_up "$scratch/cut.db"
head -n 4 "$tiny/prompts.jsonl" | tokenize -q -m "$base"
rollout -q -m "$base" -n 6 --max-new-tokens 28
store_down
store export --db "$scratch/cut.db" >"$scratch/exported.jsonl"
ended=$(grep -c '"stopped":true' "$scratch/exported.jsonl")
[ "$ended" -gt 0 ] && [ "$ended" -lt 24 ] || not_ok "$ended of 24 responses ended by themselves, some should, some not"
expect "the same responses end that ended before store export" "$ended" '"stopped":1' --format rollouts "$scratch/exported.jsonl"

# Of 4000 responses to a prompt some 8 pairs have the same 20 bits of their SHA-256, from which a sample number is made.
samples() {
    tokenize -q -m "$base" --format rollouts "$@" | tap | sed -n 's/.*"type":"rollout".*"sample":\([0-9]*\),.*/\1/p'
}
awk 'BEGIN { for (i = 0; i < 4000; i++) printf "{\"prompt\":\"Once\",\"response\":\" r%d\",\"score\":1}\n", i }' >"$scratch/many.jsonl"
samples "$scratch/many.jsonl" >"$scratch/samples"
[ "$(sort -u "$scratch/samples" | wc -l)" = 4000 ] && ok "4000 responses to one prompt are 4000 samples" ||
    not_ok "4000 responses are $(sort -u "$scratch/samples" | wc -l) samples"
samples "$scratch/many.jsonl" "$scratch/many.jsonl" >"$scratch/twice"
cat "$scratch/samples" "$scratch/samples" >"$scratch/expected"
same "given twice they have the same numbers" "$scratch/expected" "$scratch/twice"
key=$(tokenize -q -m "$base" --format rollouts "$scratch/many.jsonl" 2>"$scratch/err" | tap | sed -n '1s/.*"prompt_key":"\([0-9a-f]*\)".*/\1/p')
bits=$(printf '%s\0 r0\0' "$key" | sha256sum | cut -c 12-16)
[ "$(head -n 1 "$scratch/samples")" = $((0x$bits)) ] && ok "a number is made from prompt and response" ||
    not_ok "the first sample is $(head -n 1 "$scratch/samples"), its digest says $((0x$bits))"

tokenize -q -m "$base" --eval-fraction 0.25 "$tiny/stories.jsonl" --field text | tap >"$scratch/frames"
evals=$(grep -c '"split":"eval"' "$scratch/frames")
[ "$evals" -gt 110 ] && [ "$evals" -lt 190 ] && ok "a quarter of 600 texts is held out: $evals" ||
    not_ok "held out $evals of 600, expected about 150"
cp -r "$base" "$scratch/trained"
refused "a vocabulary does not replace a model's" 73 'trained" has a model' tokenize --train-vocab 300 --field text \
    -o "$scratch/trained" "$tiny/stories.jsonl"
same "which is as it was" "$base/tokenizer.json" "$scratch/trained/tokenizer.json"
: >"$scratch/nothing.txt"
refused "a vocabulary of nothing" 65 'nothing to train on' tokenize --train-vocab 300 -o "$scratch/none" "$scratch/nothing.txt"
expect "documents end with the end token" 1 '"prompt_tokens":\[0,.*,0\]' --end-token "$scratch/b.jsonl" --field text

printf '%s\n' 'One day, Mia ran.' '' '  spaces  ' 'tab	café 😀 "quotes" \n' >"$scratch/lines"
tokenize -m "$base" --encode <"$scratch/lines" >"$scratch/ids" && tokenize -m "$base" --decode <"$scratch/ids" >"$scratch/back"
same "--encode and --decode give every line back" "$scratch/lines" "$scratch/back"

# ---- messages ----

cat >"$scratch/chat.jsonl" <<'JSON'
{"messages": [{"role": "user", "content": "One day"}, {"role": "assistant", "content": "Mia ran."}, {"role": "user", "content": "Then?"}]}
{"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<|im_end|> stays text"}], "split": "eval"}
{"prompt": "Once", "messages": null, "split": null}
{"prompt": null, "messages": [{"role": "user", "content": "Null is nothing"}]}
JSON
expect "messages in the format that --chat names" 1 \
    '"prompt":"<|im_start|>user\\nOne day<|im_end|>\\n<|im_start|>assistant\\nMia ran.<|im_end|>\\n<|im_start|>user\\nThen?<|im_end|>\\n<|im_start|>assistant\\n"' \
    --chat chatml "$scratch/chat.jsonl"
expect "a list of messages as prompt, with its split" 1 '"split":"eval"' --chat chatml "$scratch/chat.jsonl"
expect "null is what is not there" 1 '"prompt":"<|im_start|>user\\nNull is nothing<|im_end|>' --chat chatml "$scratch/chat.jsonl"
expect "lines with and without messages" 4 '"type":"prompt"' --chat chatml "$scratch/chat.jsonl"
head -n 1 "$scratch/chat.jsonl" >"$scratch/one.jsonl"
expect "llama-2 with the begin token as its template writes it" 1 \
    '"prompt":"<s>\[INST\] One day \[/INST\] Mia ran. </s><s>\[INST\] Then? \[/INST\]"' --chat llama-2 "$scratch/one.jsonl"
expect "HH dialogues from messages" 1 '"prompt":"\\n\\nHuman: One day\\n\\nAssistant: Mia ran.\\n\\nHuman: Then?\\n\\nAssistant:"' \
    --chat hh "$scratch/one.jsonl"

# A model whose template is known: its own format without --chat, its own system message.
mkdir "$scratch/model"
cp "$base/tokenizer.json" "$base/config.json" "$scratch/model"
cat >"$scratch/model/tokenizer_config.json" <<'JSON'
{"chat_template": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"}
JSON
tokenize -q -m "$scratch/model" "$scratch/one.jsonl" | tap >"$scratch/frames"
grep -q '"prompt":"<|im_start|>system\\nBe kind.<|im_end|>\\n<|im_start|>user\\nOne day<|im_end|>' "$scratch/frames" &&
    ok "the model's own chat template" ||
    not_ok "the model's own chat template: $(head -c 300 "$scratch/frames")"

refused "messages without a chat format" 64 'line 1: it has messages, and the model names no chat format that is known' tokenize \
    -m "$base" --encode --format jsonl "$scratch/one.jsonl"
refused "an unknown chat format" 64 '--chat is "llama", must be llama-2, llama-3, chatml, zephyr or hh' tokenize -m "$base" \
    --chat llama "$scratch/one.jsonl"

# bad NAME PATTERN LINE: the line is left out, named, and the others are used
bad() {
    printf '{"prompt": "Once"}\n%s\n' "$3" >"$scratch/bad.jsonl"
    bad_code=0
    tokenize -m "$base" --chat llama-2 --encode --format jsonl "$scratch/bad.jsonl" >"$scratch/ids" 2>"$scratch/err" || bad_code=$?
    [ "$bad_code" = 65 ] && grep -q "line 2: $2" "$scratch/err" && [ "$(wc -l <"$scratch/ids")" = 1 ] && ok "$1" ||
        not_ok "$1: code $bad_code, $(head -n 1 "$scratch/err")"
}
bad "two users in a row" 'message 2: messages must alternate' \
    '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}'
bad "a role that nobody has" 'message 1: the role is not system, user or assistant but tool' \
    '{"messages": [{"role": "tool", "content": "a"}]}'
bad "content that is no text" 'message 1: "content" is no text' '{"messages": [{"role": "user", "content": 3}]}'
bad "no messages" 'the messages are no list of at least one' '{"messages": []}'
bad "messages that are no list" 'field "messages" is not a list' '{"messages": "a"}'
bad "a list of texts is no messages" 'field "prompt" is not a text' '{"prompt": ["a"]}'
bad "a prompt that is neither" 'field "prompt" is not a text' '{"prompt": 3}'

# ---- tokenizers of every kind of file, there and back ----

# back NAME FILE: lines in ordinary words come back from --encode and --decode
back() {
    if [ ! -e "$data/$2" ]; then
        echo "skip $1: $data/$2 is not here"
        return
    fi
    printf '%s\n' 'one day mia ran to the old garden' 'she was happy' >"$scratch/words"
    tokenize -m "$data/$2" --encode <"$scratch/words" >"$scratch/ids" &&
        tokenize -m "$data/$2" --decode <"$scratch/ids" >"$scratch/back"
    same "$1" "$scratch/words" "$scratch/back"
}
back "a SentencePiece model there and back" tokenizers/llama2/tokenizer.model
back "another, of 512 pieces" stories260K/tok512.model
back "a Unigram model there and back" tokenizers/sentencepiece/test_model.model
back "BERT's vocab.txt there and back" tokenizers/bert-uncased/vocab.txt
back "vocab.json and merges.txt there and back" tokenizers/gpt2
back "WordPiece in GGUF there and back" tokenizer-vectors/ggml-vocab-bert-bge.gguf
mkdir "$scratch/empty"
refused "a directory without a tokenizer" 66 'none of tokenizer.json, vocab.json, tokenizer.model and vocab.txt is there' tokenize \
    -m "$scratch/empty" --encode
printf 'nonsense' >"$scratch/x.model"
refused "a file that is no SentencePiece model" 65 'no SentencePiece model' tokenize -m "$scratch/x.model" --encode
: >"$scratch/y.model"
refused "an empty one" 65 'no SentencePiece model: it has no pieces' tokenize -m "$scratch/y.model" --encode
printf 'weights' >"$scratch/z.bin"
refused "a llama2.c model, which has none" 65 "z.bin\": llama2.c's files have none" tokenize -m "$scratch/z.bin" --encode
grep -q '^hint: .*--tokenizer' "$scratch/refused.err" && ok "and how to name one" || not_ok "no hint: $(cat "$scratch/refused.err")"

# ---- a line that cannot be used ----

# lines_left NAME COUNT FILE OPTIONS...: tokenize says 65 and that it left out so many lines of the file
lines_left() {
    left_name=$1 left_count=$2 left_file=$3
    shift 3
    left_code=0
    tokenize "$@" "$left_file" >"$scratch/out" 2>"$scratch/err" || left_code=$?
    [ "$left_code" = 65 ] && grep -q "left out $left_count of \"$left_file\"" "$scratch/err" && ok "$left_name" ||
        not_ok "$left_name: code $left_code, $(tr '\n' '|' <"$scratch/err")"
}
printf '%s\n' '{"prompt": "One day, Mia ran."}' 'nonsense' '{"prompt": "She was happy."}' '{"messages": [{"role": "user"}]}' \
    >"$scratch/mixed.jsonl"
lines_left "a vocabulary is trained on the other lines" "2 lines" "$scratch/mixed.jsonl" --train-vocab 260 -o "$scratch/vocabulary"
check "and written" tokenize -m "$scratch/vocabulary" --encode "$scratch/words"
printf '%s\n' '[1, 2]' '"x"' '[3]' >"$scratch/ids"
lines_left "--decode gives the other lines" "1 line" "$scratch/ids" -m "$base" --decode
[ "$(wc -l <"$scratch/out")" = 2 ] && ok "all of them" || not_ok "--decode gave $(wc -l <"$scratch/out") of 2 lines"
printf '%s\n' '[1, 2]' '[1, -1]' '[99999]' '[1.5]' '["a"]' '[3]' '[[1]]' >"$scratch/ids"
lines_left "--decode leaves out ids that are none" "5 lines" "$scratch/ids" -m "$base" --decode
[ "$(wc -l <"$scratch/out")" = 2 ] && grep -q 'line 3: id 0 is 99999, must be a whole number from 0 to 319' "$scratch/err" &&
    ok "and says which" || not_ok "$(wc -l <"$scratch/out") lines, $(head -n 2 "$scratch/err" | tail -n 1)"
{ printf '{"prompt": "'; head -c 4200000 /dev/zero | tr '\0' a; printf '"}\n{"prompt": "Once"}\n'; } >"$scratch/large.jsonl"
lines_left "a prompt that no frame can carry" "1 line" "$scratch/large.jsonl" -m "$base"
grep -q 'line 1: its prompt has 4200000 bytes and [0-9]* tokens, a frame carries at most 4194304 and 1048576' "$scratch/err" &&
    ok "with the limit" || not_ok "no limit: $(tr '\n' '|' <"$scratch/err")"
[ "$(tap <"$scratch/out" | wc -l)" = 1 ] && ok "the other prompt is given" || not_ok "the other prompt is missing"
{ echo 'Once'; head -c 40000000 /dev/zero | tr '\0' a; printf '\nOne day\n'; } >"$scratch/long.txt"
lines_left "a line of 40 MB" "1 line" "$scratch/long.txt" -m "$base"
grep -q 'line 2: it has more than 16777216 bytes' "$scratch/err" && ok "with its limit" || not_ok "no limit: $(head -n 1 "$scratch/err")"
[ "$(tap <"$scratch/out" | wc -l)" = 2 ] && ok "the lines around it are given" ||
    not_ok "of the 2 lines around it $(tap <"$scratch/out" | wc -l) are given"
