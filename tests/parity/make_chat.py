"""Records what transformers' apply_chat_template makes of conversations, for test_chat.c.

    python make_chat.py DATA OUT

Python with transformers 5, tokenizers and sentencepiece.  DATA holds tokenizers/llama2, tokenizers/gpt2 and hh-rlhf/.  The templates are those that the
models' own tokenizer_config.json files carry.  Dialogues of hh-rlhf are their own witness: the text is the dialogue.
"""
import gzip, json, pathlib, re, sys
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

data, out = map(pathlib.Path, sys.argv[1:3])

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
QWEN_2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
# As LLaMA-Factory writes it into the models that it trains.
LLAMA_FACTORY = (
    "{% set system_message = 'You are a helpful assistant.' %}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}"
    "{% if system_message is defined %}{{ '<|im_start|>system\n' + system_message + '<|im_end|>\n' }}{% endif %}"
    "{% for message in loop_messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>user\n' + content + '<|im_end|>\n<|im_start|>assistant\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ content + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}")
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}")

PLACES = ["<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def llama2():
    """The SentencePiece model as transformers 4 converts it, special tokens looked for in the text as it is."""
    processor = SentencePieceProcessor(model_file=str(data / "tokenizers/llama2/tokenizer.model"))
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = generate_merges(vocabulary, {piece: processor.get_score(i) for i, piece in enumerate(pieces)})
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def gpt2(begin):
    tokenizer = Tokenizer(models.BPE.from_file(str(data / "tokenizers/gpt2/vocab.json"), str(data / "tokenizers/gpt2/merges.txt")))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(place, normalized=False) for place in PLACES])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token="<|im_end|>")


def history(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[role], "content": content} for role, content in turns]


HISTORIES = [
    history(("u", "Hello")),
    history(("s", "You are kind."), ("u", "Hello")),
    history(("u", "What is 2 + 2?"), ("a", "4."), ("u", "And 3 + 3?")),
    history(("s", "Short answers."), ("u", "Hi"), ("a", "Hi!"), ("u", "Bye"), ("a", "Bye!"), ("u", "Still here?")),
    history(("u", "Hello"), ("a", "Hello to you")),
    history(("s", "Be brief."), ("u", "a"), ("a", "b"), ("u", "c"), ("a", "d")),
    history(("u", "  spaces \n"), ("a", "\n\ttabs \u00a0"), ("u", "\u3000wide\u2003\u0085")),
    history(("s", "  kept \n"), ("u", "\n  left stays inside, right goes  \n")),
    history(("s", "alone"), ("u", " \n ")),
    history(("u", ""), ("a", ""), ("u", "after nothing")),
    history(("u", "two\n\nparagraphs\n- and\n- a list"), ("a", "caf\u00e9 \U0001f600 \u4f60\u597d\uff0c"), ("u", "[INST] is text [/INST] <<SYS>>")),
    history(("u", "\u200bzero width stays\u200b")),
]


def cases(template, tokenizer):
    for messages in HISTORIES:
        speaks = messages[-1]["role"] != "assistant"
        text = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=speaks, tokenize=False)
        ids = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=speaks, tokenize=True, return_dict=False)
        yield {"messages": messages, "text": text, "ids": ids}


def hh_cases(count):
    roles = {"Human": "user", "Assistant": "assistant"}
    for line in gzip.open(next((data / "hh-rlhf").glob("*.gz"))):
        text = json.loads(line)["chosen"]
        if not 200 < len(text) < 1200:
            continue
        parts = re.split(r"\n\n(Human|Assistant): ", text)
        yield {"messages": [{"role": roles[r], "content": c} for r, c in zip(parts[1::2], parts[2::2])], "text": text}
        cut = text[:text.rindex("\n\nAssistant:")] + "\n\nAssistant:"
        yield {"messages": [{"role": roles[r], "content": c} for r, c in zip(parts[1:-2:2], parts[2:-2:2])], "text": cut}
        count -= 1
        if count == 0:
            return


record = {
    "added": {str(50257 + i): {"content": place, "special": True, "normalized": False} for i, place in enumerate(PLACES)},
    "formats": [
        {"name": "llama-2", "tokenizer": "llama2", "template": LLAMA_2, "cases": list(cases(LLAMA_2, llama2()))},
        {"name": "zephyr", "tokenizer": "llama2", "template": ZEPHYR, "cases": list(cases(ZEPHYR, llama2()))},
        {"name": "llama-3", "tokenizer": "gpt2", "template": LLAMA_3,
         "cases": list(cases(LLAMA_3, gpt2("<|begin_of_text|>")))},
        {"name": "chatml", "tokenizer": "gpt2", "template": CHATML, "cases": list(cases(CHATML, gpt2(None)))},
        {"name": "chatml", "tokenizer": "gpt2", "template": QWEN_2, "cases": list(cases(QWEN_2, gpt2(None)))},
        {"name": "chatml", "tokenizer": "gpt2", "template": LLAMA_FACTORY, "cases": list(cases(LLAMA_FACTORY, gpt2(None)))},
        {"name": "hh", "cases": list(hh_cases(12))},
    ],
}
(out / "chat.json").write_text(json.dumps(record, separators=(",", ":")))
