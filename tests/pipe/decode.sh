#!/bin/sh
# Goal: what decode says on the command line: the text a reference gives, the same text however it is asked for, values from
# directories and from a store, and a clear line for each mistake.
set -u
. tests/lib.sh
tiny_model
base=$tiny/base

count_vowels='while IFS= read -r line; do vowels=$(printf %s "$line" | tr -cd aeiou); echo "${#vowels}"; done'

# A value model, and prompts that need no file of anybody else.
cat >"$scratch/prompts.jsonl" <<'JSON'
{"prompt":"One day, Mia the fox ran to the park."}
{"prompt":"Tom had a"}
{"prompt":"","note":"the begin token alone"}
{"prompt":"Once, Anna the girl went to the beach."}
JSON
tokenize -q -m "$base" --split train "$scratch/prompts.jsonl" | rollout -q -m "$base" -n 8 --max-new-tokens 24 >"$scratch/rollouts"
reward -q --name vowels --exec "$count_vowels" --scale 0.1 <"$scratch/rollouts" | value-target -q |
    train -q -m "$base" --batch 8 --epochs 1 --lr 0.01 -o "$scratch/value" >/dev/null
check "a value model to steer with" test -f "$scratch/value/model.safetensors"

# ---- text ----

if [ -f "$data/stories260K/stories260K.gguf" ]; then
    gguf=$data/stories260K/stories260K.gguf
    decode -q -m "$gguf" --greedy --max-new-tokens 256 '' >"$scratch/greedy"
    same "greedy text is llama2.c's, byte for byte" "$scratch/greedy" "$data/stories260K/golden-greedy-n256.txt"
    # The exporter writes what train trained; with a learning rate of 0 that is the model itself, as a safetensors directory.
    head -n 2 "$data/stories260K/prompts.jsonl" | tokenize -q -m "$gguf" --end-token |
        train -q -m "$gguf" --objective lm --lr 0 --epochs 1 -o "$scratch/exported"
    decode -q -m "$scratch/exported" --greedy --max-new-tokens 256 '' >"$scratch/greedy-exported"
    same "so is it from an exported safetensors directory" "$scratch/greedy-exported" "$data/stories260K/golden-greedy-n256.txt"
    head -n 8 "$data/stories260K/prompts.jsonl" >"$scratch/stories.jsonl"
    decode -q -m "$gguf" -n 3 --json --max-new-tokens 40 "$scratch/stories.jsonl" >"$scratch/stories"
    decode -q -m "$gguf" --score "$scratch/stories" >"$scratch/scored"
    sed 's/.*"logprob":\(-[0-9.]*\),.*/\1/' "$scratch/stories" >"$scratch/sampled-sums"
    sed 's/.*"sum":\(-[0-9.]*\),.*/\1/' "$scratch/scored" | paste "$scratch/sampled-sums" - |
        awk '{ d = $1 - $2; if (d > 1e-4 || d < -1e-4) bad++ } END { exit !(NR == 24 && !bad) }' &&
        ok "sampled log-probabilities are those that --score gives" ||
        not_ok "log-probabilities: $(head -n 1 "$scratch/sampled-sums") is not $(head -c 80 "$scratch/scored")"
else
    echo "skip llama2.c's greedy text: $data is not here"
fi

decode -q -m "$base" --max-new-tokens 24 --batch 1 -t 1 "$scratch/prompts.jsonl" >"$scratch/one"
decode -q -m "$base" --max-new-tokens 24 - <"$scratch/prompts.jsonl" >"$scratch/two"
same "a batch of 1 and a batch of 32 give the same text" "$scratch/one" "$scratch/two"
: >"$scratch/streamed"
for prompt in "One day, Mia the fox ran to the park." "Tom had a" "" "Once, Anna the girl went to the beach."; do
    decode -q -m "$base" --max-new-tokens 24 "$prompt" >>"$scratch/streamed"
done
same "streamed token by token it is the same text" "$scratch/one" "$scratch/streamed"
decode -q -m "$base" --max-new-tokens 24 -n 3 "Tom had a" >"$scratch/streamed"
decode -q -m "$base" --max-new-tokens 24 -n 3 - >"$scratch/several" <<'END'
Tom had a
END
same "so are three answers, one after the other" "$scratch/several" "$scratch/streamed"
decode -q -m "$base" --max-new-tokens 24 --value "$scratch/value:0" "$scratch/prompts.jsonl" >"$scratch/zero"
same "beta 0 gives the base policy's text" "$scratch/one" "$scratch/zero"
decode -q -m "$base" --max-new-tokens 24 --value "$scratch/value:40" "$scratch/prompts.jsonl" >"$scratch/steered"
cmp -s "$scratch/one" "$scratch/steered" && not_ok "beta 40 gives the base policy's text" || ok "beta 40 does not"
model export -q -m "$scratch/value" -o "$scratch/value.gguf" --type f32
decode -q -m "$base" --max-new-tokens 24 --value "$scratch/value.gguf:40" "$scratch/prompts.jsonl" >"$scratch/gguf"
same "a value model as GGUF steers the same way" "$scratch/steered" "$scratch/gguf"
decode -q -m "$base" --max-new-tokens 24 --value "$scratch/value" --value "$scratch/value:0" --beta 40 "$scratch/prompts.jsonl" \
    >"$scratch/both"
same "--beta is for value models without their own, and a second one with 0 adds nothing" "$scratch/steered" "$scratch/both"

# A line's own dials: what the command line would give with them, beside other lines in one batch; and a line for each mistake.
cat >"$scratch/dials.jsonl" <<'JSON'
{"prompt":"Tom had a","decode":{"beta":0}}
{"prompt":"Tom had a"}
{"prompt":"Tom had a","decode":{"beta":[-40],"temperature":0.5,"top_p":0.75,"top_k":50,"seed":3,"max_new_tokens":12}}
{"prompt":"Tom had a","decode":{"temperature":0,"beta":null}}
{"prompt":"Tom had a","decode":null}
JSON
dial() {
    decode -q -m "$base" --max-new-tokens 24 --json "$@" "Tom had a"
}
{
    dial
    dial --value "$scratch/value:40"
    dial --value "$scratch/value:-40" --temperature 0.5 --top-p 0.75 --top-k 50 --seed 3 --max-new-tokens 12
    dial --value "$scratch/value:40" --greedy
    dial --value "$scratch/value:40"
} >"$scratch/dialled-alone"
decode -q -m "$base" --max-new-tokens 24 --value "$scratch/value:40" --json "$scratch/dials.jsonl" >"$scratch/answers"
sed 's/^{"decode":{[^}]*},/{/' "$scratch/answers" >"$scratch/dialled"
same "lines that ask for it are decoded with dials of their own" "$scratch/dialled-alone" "$scratch/dialled"
own=$(sed -n '3s/^{"decode":\({[^}]*}\),.*/\1/p' "$scratch/answers")
[ "$own" = '{"beta":[-40],"max_new_tokens":12,"seed":3,"temperature":0.5,"top_k":50,"top_p":0.75}' ] &&
    ok "and say so" || not_ok "the third answer says $own"
dial_refused() {  # NAME PATTERN JSON OPTION...
    name=$1 pattern=$2
    printf '{"prompt":"Tom had a","decode":%s}\n{"prompt":"Tom had a"}\n' "$3" >"$scratch/mistaken.jsonl"
    shift 3
    refused "$name" 65 "line 1 of .*: $pattern" decode -q -m "$base" --max-new-tokens 4 "$@" \
        "$scratch/mistaken.jsonl"
    grep -q . "$scratch/refused.out" || not_ok "$name: the other line was not answered"
}
dial_refused "an unknown dial" '"decode" has "betas", knows beta, temperature' '{"betas":1}' --value "$scratch/value"
dial_refused "a dial out of range" '"top_p" under "decode" is 1.5, must be from 1e-09 to 1' '{"top_p":1.5}'
dial_refused "a whole number out of range" '"seed" under "decode" is 9007199254740992, must be from 0 to 9007199254740991' \
    '{"seed":9007199254740992}'
dial_refused "a dial that is true" '"temperature" under "decode" is no number' '{"temperature":true}'
dial_refused "a dial that is no whole number" '"seed" under "decode" is no whole number' '{"seed":1.5}'
dial_refused "betas for more value models than there are" '"beta" under "decode" has 2 numbers, must have 1' '{"beta":[1,2]}' \
    --value "$scratch/value"
dial_refused "a beta without a value model" '"beta" under "decode" is for value models' '{"beta":1}'
dial_refused "a beta for a value model that is not read" '"beta" under "decode" is 1 for .*, which was not read' '{"beta":1}' \
    --value "$scratch/value:0"
dial_refused "dials that are no object" '"decode" is no object' '[1]'

# Tokens left to the base policy: all but the first; or those that a value model which cannot move anything would not change.
decode -q -m "$base" --max-new-tokens 24 --value "$scratch/value:40" --guide-every 1000 --greedy --json "$scratch/prompts.jsonl" \
    >"$scratch/every"
decode -q -m "$base" --max-new-tokens 1 --value "$scratch/value:40" --greedy --json "$scratch/prompts.jsonl" >"$scratch/first"
for answers in every first; do
    sed 's/.*"kl":\([-0-9.e]*\),.*/\1/' "$scratch/$answers" >"$scratch/$answers-kl"
done
grep -q . "$scratch/first-kl" || not_ok "--json gave no kl"
same "with --guide-every 1000 the divergence is the first token's" "$scratch/first-kl" "$scratch/every-kl"
decode -m "$base" --max-new-tokens 24 --value "$scratch/value:1e-6" --greedy "$scratch/prompts.jsonl" >"$scratch/valued" 2>/dev/null
decode -m "$base" --max-new-tokens 24 --value "$scratch/value:1e-6" --skip-sure 0.01 --greedy "$scratch/prompts.jsonl" \
    >"$scratch/sure" 2>"$scratch/err"
same "greedy text is the same where candidates of sure tokens are not valued" "$scratch/valued" "$scratch/sure"
steered=$(sed -n 's/.* steered=\([0-9]*\).*/\1/p' "$scratch/err")
[ "${steered:-0}" -ge 4 ] && [ "$steered" -lt 50 ] && ok "most are not" || not_ok "steered tokens: $(tail -n 1 "$scratch/err")"

# A coprocess: each prompt is answered before the next is asked, and so is what cannot be.
mkfifo "$scratch/ask" "$scratch/answer"
decode -q -m "$base" --max-new-tokens 8 --json - <"$scratch/ask" >"$scratch/answer" 2>"$scratch/err" &
test_pids=$!
exec 3>"$scratch/ask" 4<"$scratch/answer"
answered=
for word in One '{"prompt":"One","decode":{"beta":1}}' Two '{nonsense' Three; do
    echo "$word" >&3
    read -r line <&4
    case $line in
    *"\"prompt\":\"$word\""*) answered="$answered $word" ;;
    '{"error":"\"beta\" under \"decode\" is for value models, and there is no --value","line":2}') answered="$answered 2" ;;
    '{"error":"the line is no JSON","line":4}') answered="$answered 4" ;;
    esac
done
exec 3>&- 4<&-
wait "$test_pids"
code=$?
test_pids=
[ "$answered" = " One 2 Two 4 Three" ] && [ $code = 65 ] && ok "a line is answered before the next one comes" ||
    not_ok "answered only:$answered, code $code"
{ echo "Tom had a"; yes '{nonsense' | head -n 3000; echo "Tom had a"; } |
    decode -q -m "$base" -n 2 --max-new-tokens 8 --json - 2>"$scratch/err" | sed 's/{"\([a-z]*\)".*/\1/' | uniq -c |
    awk '{ printf "%s %s ", $1, $2 }' >"$scratch/out"
[ "$(cat "$scratch/out")" = "2 kl 3000 error 2 kl " ] && ok "each in its place, however many" ||
    not_ok "answers: $(cat "$scratch/out")"

# Rollouts that workers make of the same prompt are the same samples.
tap <"$scratch/rollouts" | sed -n 's/.*"response_tokens":\(\[[0-9,]*\]\).*/\1/p' >"$scratch/rollout-tokens"
decode -q -m "$base" -n 8 --max-new-tokens 24 --json "$scratch/prompts.jsonl" |
    sed -n 's/.*"response_tokens":\(\[[0-9,]*\]\).*/\1/p' >"$scratch/decode-tokens"
same "decode and rollout sample the same responses" "$scratch/rollout-tokens" "$scratch/decode-tokens"

# Messages in the format of the model's own template, or of --chat, are the prompts that tokenize makes of them.
cp -r "$base" "$scratch/chat"
cat >"$scratch/chat/tokenizer_config.json" <<'JSON'
{"eos_token": "<|endoftext|>", "chat_template": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"}
JSON
cat >"$scratch/messages.jsonl" <<'JSON'
{"messages": [{"role": "user", "content": "One day"}]}
{"prompt": [{"role": "user", "content": "Mia <|endoftext|>"}, {"role": "assistant", "content": "ran"}, {"role": "user", "content": "Then?"}]}
JSON
for format in '' '--chat hh'; do
    tokenize -q -m "$scratch/chat" $format "$scratch/messages.jsonl" | rollout -q -m "$scratch/chat" -n 2 --max-new-tokens 8 | tap |
        sed -n 's/.*"prompt":\("[^"]*"\),"prompt_tokens":\([^]]*\).*"response_tokens":\([^]]*\).*/\1 \2 \3/p' >"$scratch/of-rollout"
    decode -q -m "$scratch/chat" $format -n 2 --max-new-tokens 8 --json "$scratch/messages.jsonl" |
        sed -n 's/.*"prompt":\("[^"]*"\),"prompt_tokens":\([^]]*\).*"response_tokens":\([^]]*\).*/\1 \2 \3/p' >"$scratch/of-decode"
    same "messages${format:+ with $format} are answered as rollouts of them are sampled" "$scratch/of-rollout" "$scratch/of-decode"
    [ "$(wc -l <"$scratch/of-decode")" = 4 ] || not_ok "$(wc -l <"$scratch/of-decode") of 4 answers to messages"
done
head -n 1 "$scratch/messages.jsonl" >"$scratch/one-message.jsonl"
refused "messages without a format" 65 'line 1 of .*: it has messages, and the model names no chat format' decode -m "$base" \
    "$scratch/one-message.jsonl"

# ---- best of N ----

decode -q -m "$base" --best-of 8 --exec "$count_vowels" --scale 0.1 --max-new-tokens 24 --json "$scratch/prompts.jsonl" \
    >"$scratch/best"
reward -q --name vowels --exec "$count_vowels" --scale 0.1 <"$scratch/rollouts" | tap | grep '"type":"scored"' |
    sed 's/.*"score":\([-0-9.e]*\).*/\1/' | awk '{ if ((NR - 1) % 8 == 0 || $1 > best) best = $1 } NR % 8 == 0 { print best + 0 }' \
    >"$scratch/highest"
sed 's/.*"score":\([-0-9.e]*\).*/\1/' "$scratch/best" | awk '{ print $1 + 0 }' >"$scratch/best-scores"
same "--best-of 8 gives the highest of the 8 rollouts' scores" "$scratch/highest" "$scratch/best-scores"

for i in 1 2 3 4 5 6 7 8 9 10; do cat "$scratch/prompts.jsonl"; done >"$scratch/forty.jsonl"
decode -m "$base" --best-of 4 --batch 4 --exec false --max-new-tokens 8 "$scratch/forty.jsonl" >"$scratch/out" 2>"$scratch/err"
code=$?
sampled=$(sed -n 's/.* responses=\([0-9]*\) .*/\1/p' "$scratch/err")
[ $code = 69 ] && [ "${sampled:-160}" -lt 16 ] && [ "$(grep -c 'is of no use any more' "$scratch/err")" = 1 ] &&
    ok "nothing is sampled any more when nothing can be scored" || not_ok "code $code, $sampled responses for a dead scorer"
decode -q -m "$base" --best-of 4 --exec 'while read -r line; do case $line in *"One day"*) echo nan ;; *) echo 1 ;; esac; done' \
    --max-new-tokens 8 --json "$scratch/prompts.jsonl" >"$scratch/out" 2>"$scratch/err"
[ $? = 65 ] && [ "$(grep -c '"response"' "$scratch/out")" = 3 ] &&
    [ "$(grep -c '{"error":"none of its samples could be scored","line":1,"prompt":"One day' "$scratch/out")" = 1 ] &&
    ok "a prompt whose samples have no score is no reason to stop" ||
    not_ok "$(wc -l <"$scratch/out") of 4 prompts answered: $(tail -n 1 "$scratch/err")"

# ---- given text ----

printf '%s\n' '{"tokens":[5,6,7]}' '{"prompt_tokens":[5],"response_tokens":[6,7]}' >"$scratch/given.jsonl"
decode -q -m "$base" --score --value "$scratch/value" "$scratch/given.jsonl" >"$scratch/given"
[ "$(sort -u "$scratch/given" | wc -l)" = 1 ] && grep -q '"values":\[[^]]*,[^]]*,[^]]*\]' "$scratch/given" &&
    ok "--score gives 2 logprobs and 3 values of 3 tokens" || not_ok "--score: $(head -n 1 "$scratch/given")"
mkfifo "$scratch/asked"
decode -q -m "$base" --score - <"$scratch/asked" >"$scratch/answered" &
scorer=$!
exec 3>"$scratch/asked"
head -n 1 "$scratch/given.jsonl" >&3
i=0
while [ ! -s "$scratch/answered" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
check "--score answers before its input ends" test -s "$scratch/answered"
exec 3>&-
wait $scorer
cp -R "$base" "$scratch/nan"
printf '\000\000\300\177' | dd of="$scratch/nan/model.safetensors" bs=1 conv=notrunc status=none \
    seek=$(($(wc -c <"$base/model.safetensors") - 4))
head -n 1 "$scratch/given.jsonl" >"$scratch/one.jsonl"
refused "--score of a model whose numbers are not finite" 65 'line 1 of .* not finite' \
    decode -q -m "$scratch/nan" --score "$scratch/one.jsonl"
check "so says the line's answer" grep -q '^{"error":"the model.s numbers are not finite","line":1}$' "$scratch/refused.out"
printf '\nOne day\n' | decode -q -m "$scratch/nan" --json -n 2 - >"$scratch/out" 2>"$scratch/err"
[ $? = 65 ] && [ "$(sed -n 's/^{"error":"logits of .* are not finite .*","line":2,"prompt":"One day","sample":\([01]\)}$/\1/p' \
    "$scratch/out" | tr '\n' ' ')" = "0 1 " ] && ok "so say the answers of a prompt that it cannot continue" ||
    not_ok "answers of a model whose numbers are not finite: $(head -n 1 "$scratch/out")"
printf '{"prompt": "One day"}\n\n \t\nOne day\n' >"$scratch/gap"
check "an empty line of a file is no prompt" test "$(decode -q -m "$base" --json --max-new-tokens 1 "$scratch/gap" | wc -l)" = 2
{ printf '\357\273\277'; cat "$scratch/prompts.jsonl"; } >"$scratch/marked.jsonl"
decode -q -m "$base" --max-new-tokens 24 "$scratch/marked.jsonl" >"$scratch/out"
same "a byte order mark before the first prompt is none of it" "$scratch/one" "$scratch/out"
decode -q -m "$base" --score "$scratch/prompts.jsonl" >"$scratch/out" 2>"$scratch/err"
[ $? = 65 ] && grep -q 'line 1 of' "$scratch/err" && [ "$(grep -c '^{"error":' "$scratch/out")" = "$(wc -l <"$scratch/prompts.jsonl")" ] &&
    ok "--score names a line without a response" ||
    not_ok "--score of lines without a response: $(head -n 1 "$scratch/err")"

# ---- a store ----

store serve -q --db "$scratch/store.db" &
test_pids=$!
endpoint=ipc://$scratch/store.db.sock
wait_for "$scratch/store.db.sock"
tokenize -q -m "$base" -s "$endpoint" --split train "$scratch/prompts.jsonl"
rollout -q -m "$base" -s "$endpoint" -n 8 --max-new-tokens 24
reward -q -s "$endpoint" --name vowels --exec "$count_vowels" --scale 0.1
value-target -q -s "$endpoint" --run kind --reward vowels &
test_pids="$test_pids $!"
train -q -m "$base" -s "$endpoint" --run kind --batch 8 --epochs 1 --lr 0.01 -o "$scratch/trained" >/dev/null
decode -q -m "$base" -s "$endpoint" --value kind:40 --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/from-run"
decode -q -m "$base" --value "$scratch/trained:40" --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/from-directory"
same "a value model from the store steers like its directory" "$scratch/from-run" "$scratch/from-directory"
step=$(store status --db "$scratch/store.db" --json | sed -n 's/.*"step":\([0-9]*\).*/\1/p')
decode -q -m "$base" -s "$endpoint" --value "kind@$step:40" --max-new-tokens 24 "$scratch/prompts.jsonl" >"$scratch/from-step"
same "so does the one of the run's last step" "$scratch/from-run" "$scratch/from-step"
refused "a step that the store has not kept" 66 'no weights of such a run and step' decode -m "$base" -s "$endpoint" \
    --value kind@999999:1 "One day"
refused "a run that the store does not have" 66 'nobody' decode -m "$base" -s "$endpoint" --value nobody:1 "One day"

decode -q -m "$base" -s "$endpoint" --value kind:40 --split train -n 2 --max-new-tokens 24
decode -q -m "$base" -s "$endpoint" --value kind:40 --split train -n 2 --max-new-tokens 24 --batch 3
store export --db "$scratch/store.db" 2>/dev/null | grep -c '"policy":"vas kind:40"' >"$scratch/count"
[ "$(cat "$scratch/count")" = 8 ] && ok "as a worker it answers each prompt twice, and again nothing" ||
    not_ok "the store has $(cat "$scratch/count") rollouts of the steered policy, expected 8"
refused "a policy's name that means something else" 78 'vas kind:40' \
    decode -q -m "$base" -s "$endpoint" --value kind:30 --policy "vas kind:40" --split train --max-new-tokens 24

refused "so does --guide-every" 78 'vas kind:40' \
    decode -q -m "$base" -s "$endpoint" --value kind:40 --guide-every 2 --split train --max-new-tokens 24

# ---- mistakes ----

refused "a value model's beta beyond all sense" 64 'is 1e+300, must be from -1e+06 to 1e+06' \
    decode -m "$base" --value "$base:1e300" "One day"
refused "no prompt" 64 'no prompt' decode -m "$base"
refused "no model" 64 '\-m is missing' decode "One day"
refused "a file that is missing" 66 'nowhere.jsonl' decode -m "$base" "$scratch/nowhere.jsonl"
refused "a value model that is missing" 66 'nowhere' decode -m "$base" --value "$scratch/nowhere:2" "One day"
refused "best-of without a reward" 64 'needs a reward' decode -m "$base" --best-of 3 "One day"
refused "a policy's name for text" 64 '\-\-policy is for' decode -m "$base" --policy x "One day"
for option in '--beta 3' '--candidates 20' '--guide-every 2' '--skip-sure 0.01' '--value-quant q4_0' "--value-tokenizer $base"; do
    refused "$option without a value model" 64 "\\${option%% *} is for value models" decode -m "$base" $option "One day"
done
refused "--split with a text" 64 'split is for prompts of a store, not for "One day"' decode -m "$base" --split eval "One day"
refused "--follow with a text" 64 'follow is for prompts of a store' decode -m "$base" --follow "One day"
refused "a share of draws above 1" 64 '\-\-skip-sure is 2' decode -m "$base" --skip-sure 2 "One day"
refused "too many candidates" 64 '\-\-candidates is 9999' decode -m "$base" --candidates 9999 "One day"
refused "a context shorter than the prompt" 65 'context of' decode -m "$base" --context 3 "One day, Mia the fox ran to the park."
printf '{"prompt":"One day"}\n{"promt":"typo"}\n{nonsense\n{"prompt":"Tom had a"}\n' >"$scratch/mixed.jsonl"
decode -q -m "$base" --max-new-tokens 4 --json "$scratch/mixed.jsonl" >"$scratch/out" 2>"$scratch/err"
[ $? = 65 ] && [ "$(sed 's/.*"line":/refused /; s/.*"response".*/answered/' "$scratch/out" | tr '\n' ' ')" = \
    "answered refused 2} refused 3} answered " ] && grep -q 'line 2' "$scratch/err" && grep -q 'line 3' "$scratch/err" &&
    ok "bad lines are named, good ones are answered" || not_ok "bad lines: $(tr '\n' '|' <"$scratch/err")"
{
    printf 'One day\n'
    head -c 20000000 /dev/zero | tr '\0' x
    printf '\nTom had a\n'
    head -c 16777217 /dev/zero | tr '\0' x
    printf '\n'
    head -c 20000000 /dev/zero | tr '\0' x
} >"$scratch/long.txt"
decode -q -m "$base" --max-new-tokens 4 --json "$scratch/long.txt" >"$scratch/out" 2>"$scratch/err"
code=$?
long=$(sed 's/.*line \([0-9]\) of .* has more than .*/\1/' "$scratch/err" | tr '\n' ' ')
refused=$(sed -n 's/^{"error":"the line is too long","line":\([0-9]\)}$/\1/p' "$scratch/out" | tr '\n' ' ')
[ "$code $(grep -c '"response"' "$scratch/out") $long$refused" = "65 2 2 4 5 2 4 5 " ] && ok "so it is where lines are too long, by one byte too" ||
    not_ok "long lines: exit $code, $(tr '\n' '|' <"$scratch/err")"
