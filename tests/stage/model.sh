#!/bin/sh
# Goal: model inspect says what a file is and whether all of it is understood; model export keeps every number.
set -u
. tests/lib.sh
tiny_model

line() {  # NAME FILE: what inspect printed under that name
    sed -n "s/^$1  *//p" "$2" | head -n 1
}

model inspect "$tiny/base" >"$scratch/facts"
[ $? = 0 ] && ok "a model that can be used says 0" || not_ok "inspect of a good model failed"
[ "$(line family "$scratch/facts")" = "llama (LlamaForCausalLM)" ] && [ "$(line understood "$scratch/facts")" = "every tensor" ] &&
    ok "family and tensors are named" || not_ok "inspect said: $(head -n 3 "$scratch/facts" | tr '\n' '|')"
grep -q '^tokenizer  *byte-level BPE, 320 tokens, stops at <|endoftext|> (0)$' "$scratch/facts" &&
    ok "so is the tokenizer" || not_ok "inspect said of the tokenizer: $(line tokenizer "$scratch/facts")"

check "a model becomes GGUF" model export -q -m "$tiny/base" -o "$scratch/base.gguf" --type f32
check "and a directory again" model export -q -m "$scratch/base.gguf" -o "$scratch/again"
for copy in "$scratch/base.gguf" "$scratch/again"; do
    model inspect "$copy" >"$scratch/copy"
    [ "$(line key "$scratch/copy")" = "$(line key "$scratch/facts")" ] && [ -n "$(line key "$scratch/copy")" ] &&
        ok "$(basename "$copy") has the same numbers" || not_ok "$(basename "$copy") has key $(line key "$scratch/copy")"
done
decode -q -m "$tiny/base" --greedy --max-new-tokens 24 "One day, Mia" >"$scratch/text"
for type in f32 f16 bf16 q8_0; do
    model export -q -m "$tiny/base" -o "$scratch/$type.gguf" --type $type &&
        decode -q -m "$scratch/$type.gguf" --greedy --max-new-tokens 24 "One day, Mia" >"$scratch/text-$type"
    if [ $type = f32 ]; then
        same "and speaks the same" "$scratch/text" "$scratch/text-f32"
    else
        check "$type speaks" test -s "$scratch/text-$type"
    fi
done

# Where sampling stops is kept, also where only generation_config.json tells it.
stops() {  # stops MODEL
    model inspect "$1" | sed -n 's/.*, stops at //p'
}
mkdir "$scratch/stops"
cp "$tiny"/base/* "$scratch/stops"
echo '{"eos_token_id": [0, 41, 40]}' >"$scratch/stops/generation_config.json"
model export -q -m "$scratch/stops" -o "$scratch/stops.gguf"
model export -q -m "$scratch/stops" -o "$scratch/stops-directory"
model export -q -m "$scratch/stops.gguf" -o "$scratch/stops-gguf-directory"
for copy in stops.gguf stops-directory stops-gguf-directory; do
    [ "$(stops "$scratch/$copy" | grep -o '([0-9]*)' | tr -d '\n')" = '(0)(40)(41)' ] && ok "$copy stops where the model did" ||
        not_ok "$copy stops at $(stops "$scratch/$copy")"
done
[ ! -e "$scratch/again/generation_config.json" ] && ok "usual stops need no file" || not_ok "usual stops were written to a file"
check "they are written over others" model export -q -m "$tiny/base" -o "$scratch/stops-directory"
[ "$(stops "$scratch/stops-directory")" = "$(stops "$tiny/base")" ] && ok "which then no longer hold" ||
    not_ok "after another export it stops at $(stops "$scratch/stops-directory")"
echo '{"eos_token_id": [0, 40, 41, 42]}' >"$scratch/stops/generation_config.json"
model export -m "$scratch/stops" -o "$scratch/stops.gguf" 2>"$scratch/stops.err"
[ "$(grep -c 'does not stop at 42$' "$scratch/stops.err")" = 1 ] && ok "a stop that GGUF cannot tell is named" ||
    not_ok "export of four stops said: $(cat "$scratch/stops.err")"

# The chat template goes along, into GGUF and back, and messages are put into its format from both.
template="{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
cp -r "$tiny/base" "$scratch/chat"
printf '{"eos_token": "<|endoftext|>", "chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": "%s"}]}\n' \
    "$template" >"$scratch/chat/tokenizer_config.json"
echo '{"messages": [{"role": "user", "content": "One day"}]}' >"$scratch/messages.jsonl"
model export -q -m "$scratch/chat" -o "$scratch/chat_copy"
model export -q -m "$scratch/chat" -o "$scratch/chat.gguf"
model export -q -m "$scratch/chat.gguf" -o "$scratch/chat_back"
tokenize -m "$scratch/chat" --encode --format jsonl "$scratch/messages.jsonl" >"$scratch/ids"
check "messages are read by the model's template" test -s "$scratch/ids"
for copy in chat_copy chat.gguf chat_back; do
    tokenize -m "$scratch/$copy" --encode --format jsonl "$scratch/messages.jsonl" >"$scratch/ids-$copy"
    same "and by that of $copy" "$scratch/ids" "$scratch/ids-$copy"
done
grep -qF "\"template\": \"$template\"" "$scratch/chat_copy/tokenizer_config.json" &&
    grep -qF '"name": "tools"' "$scratch/chat_copy/tokenizer_config.json" &&
    grep -qF "\"chat_template\": \"$template\"" "$scratch/chat_back/tokenizer_config.json" &&
    ok "the template is written as it was" || not_ok "the template is written as it was"

# A file with a tensor that nothing uses, and without those that the config asks for.
mkdir -p "$scratch/odd"
cp "$tiny/base/config.json" "$tiny/base/tokenizer.json" "$scratch/odd"
header='{"odd":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} '
{
    printf '\071\000\000\000\000\000\000\000%s\000\000\000\000' "$header"
} >"$scratch/odd/model.safetensors"
code=0
model inspect "$scratch/odd" >"$scratch/odd-facts" 2>"$scratch/odd-err" || code=$?
[ $code = 65 ] && grep -q '^understood  *0 of 1 tensors; not "odd"$' "$scratch/odd-facts" &&
    grep -q 'is missing' "$scratch/odd-err" &&
    ok "a tensor that is not understood, and one that is missing, are named" ||
    not_ok "inspect of an odd file exited with $code: $(cat "$scratch/odd-err")"

refused "a model must be named" 64 'model is missing' model inspect
refused "one that is not there" 66 'nowhere' model inspect "$scratch/nowhere"
refused "one that is none" 65 'prompts.jsonl' model inspect "$tiny/prompts.jsonl"
refused "export needs an output" 64 'o is missing' model export -m "$tiny/base"
refused "a directory is in float32" 64 'for GGUF' model export -m "$tiny/base" -o "$scratch/x" --type q8_0
cp -r "$tiny/base" "$scratch/self"
refused "a model is not written over itself" 73 'self/\." is the model that is read' model export -m "$scratch/self" -o "$scratch/self/."
same "which is as it was" "$tiny/base/model.safetensors" "$scratch/self/model.safetensors"
cp "$scratch/base.gguf" "$scratch/self.gguf"
refused "nor is a file" 73 'self.gguf" is the model that is read' model export -m "$scratch/self.gguf" -o "$scratch/self.gguf" --type q4_0
same "which is as it was too" "$scratch/base.gguf" "$scratch/self.gguf"
mkdir "$scratch/shards"
echo '{"weight_map": {}}' >"$scratch/shards/model.safetensors.index.json"
refused "nor is one written where shards would be read instead" 73 'shards" has a model in several files' \
    model export -m "$tiny/base" -o "$scratch/shards"
refused "an unknown type" 64 'must be f32' model export -m "$tiny/base" -o "$scratch/x.gguf" --type q9
refused "an unknown command" 64 'unknown command' model examine
