"""make_hh_models.py - small models for an alignment on HH dialogues, and what transformers' reward models say there.

    python tests/parity/make_hh_models.py          (python with torch, transformers and tokenizers)

Writes tests/parity/hh/:

    dialogues.jsonl     dialogues in Anthropic HH's form, written by a small grammar
    base/               Llama, trained a little on such dialogues; byte-level BPE
    value/              a smaller Llama with the same tokenizer, random
    reward/             DeBERTa-v3 (relative positions, log buckets) with one label, random; Unigram tokenizer
    chat_reward/        Llama with two labels and a ChatML template, random; the base policy's tokenizer
    scores.json         prompts and responses; of reward/ and chat_reward/ the logits for each way of joining them

The networks have the shapes of the real ones, scaled down; weights are stored as float16 and the logits computed in float32
from the weights as stored.
"""
import json
import pathlib
import random
import shutil

import tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent / "hh"
VOCAB, PAIR_VOCAB = 512, 256
LLAMA = dict(vocab_size=VOCAB, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0,
             eos_token_id=0)
SIZES = {
    "base": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
    "value": dict(hidden_size=16, intermediate_size=44, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1),
    "chat_reward": dict(hidden_size=24, intermediate_size=64, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3),
}
DEBERTA = dict(vocab_size=PAIR_VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
               hidden_act="gelu", max_position_embeddings=512, relative_attention=True, max_relative_positions=-1,
               position_buckets=32, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
               position_biased_input=False, type_vocab_size=0, pad_token_id=0, pooler_hidden_size=32, pooler_dropout=0,
               pooler_hidden_act="gelu", layer_norm_eps=1e-7, num_labels=1)
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

TOPICS = ["my neighbour", "a job interview", "the school trip", "an old bicycle", "a birthday cake", "my sister's cat",
          "the garden in winter", "a long train journey", "this café", "learning to swim"]
ASKS = ["What should I know about {}?", "Can you help me with {}?", "I'm angry about {}. What now?", "Tell me something about {}.",
        "How do people usually deal with {}?"]
KIND = ["I'm happy to help with {}. Let's begin with what you like most about it.",
        "Of course! With {} it is best to be patient and kind.", "Many people enjoy {}. Would you like some ideas?"]
HARSH = ["I don't care about {}.", "That is a stupid question, and {} is boring.", "Nobody should waste time on {}."]
MORE = ["Thank you, go on.", "Are you sure?", "That's not what I meant...", "OK. And then?"]


def dialogue(rng):
    """One dialogue up to the last answer, and two answers."""
    topic = rng.choice(TOPICS)
    text = f"\n\nHuman: {rng.choice(ASKS).format(topic)}\n\nAssistant:"
    for _ in range(rng.choice([0, 0, 1, 2])):
        text += f" {rng.choice(KIND + HARSH).format(topic)}\n\nHuman: {rng.choice(MORE)}\n\nAssistant:"
    return text, f" {rng.choice(KIND).format(topic)}", f" {rng.choice(HARSH).format(topic)}"


def save(model, tokenizer, directory):
    shutil.rmtree(directory, ignore_errors=True)
    model.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    for file in directory.glob("*.json"):  # pretty-printed files would be most of the fixture
        if file.name == "tokenizer.json":
            file.write_text(json.dumps(json.loads(file.read_text()), ensure_ascii=False, separators=(",", ":")) + "\n")
    return type(model).from_pretrained(directory, dtype=torch.float32).eval()


def bpe(texts):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[0])


def unigram(texts):
    """As DeBERTa-v3's: [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3; pieces from a SentencePiece-like training."""
    draft = tokenizers.Tokenizer(tokenizers.models.Unigram())
    draft.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    draft.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    trainer = tokenizers.trainers.UnigramTrainer(vocab_size=PAIR_VOCAB - 1, special_tokens=special, unk_token="[UNK]", show_progress=False,
                                                 initial_alphabet=[chr(c) for c in range(33, 127)])
    draft.train_from_iterator(texts, trainer)
    pieces = [tuple(piece) for piece in json.loads(draft.to_str())["model"]["vocab"]]
    tokenizer = transformers.DebertaV2Tokenizer(vocab=pieces, unk_id=3)
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2, 3]
    return tokenizer


def train(model, tokenizer, rng):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(300):
        texts = [prompt + rng.choice(answers) for prompt, *answers in (dialogue(rng) for _ in range(16))]
        batch = tokenizer([text + "<|endoftext|>" for text in texts])["input_ids"]
        width = max(map(len, batch))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in batch])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in batch])
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"base policy: loss {loss.item():.3f}")


def randomise(model, generator):
    """Weights large enough that attention is far from uniform and scores differ."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            weight.data = (0 if name.endswith("bias") else 1) + 0.2 * noise
        elif "embed" in name:
            weight.data = 0.8 * noise
        else:
            weight.data = 1.5 * noise / weight.shape[1] ** 0.5


def last_turn(prompt):
    return prompt.rsplit("\n\nHuman:", 1)[1].removesuffix("\n\nAssistant:").strip()


def conversation(prompt, response):
    messages = []
    for turn in prompt.split("\n\nHuman:")[1:]:
        user, _, assistant = turn.partition("\n\nAssistant:")
        messages += [dict(role="user", content=user.strip()), dict(role="assistant", content=assistant.strip())]
    messages[-1]["content"] = response.strip()
    return messages


def logits(model, inputs):
    """inputs: of a batch of one; as batches, since tokenizer(text, "") takes an empty second text for none."""
    with torch.no_grad():
        return [float(x) for x in model(**{k: torch.tensor(v) for k, v in inputs.items()}).logits[0]]


def main():
    rng = random.Random(7)
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(7)
    HERE.mkdir(exist_ok=True)
    corpus = [prompt + chosen for prompt, chosen, _ in (dialogue(rng) for _ in range(400))]

    shared = bpe(corpus)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **SIZES["base"]))
    train(base, shared, rng)
    save(base, shared, HERE / "base")
    save(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **SIZES["value"])), shared, HERE / "value")

    reward = transformers.DebertaV2ForSequenceClassification(transformers.DebertaV2Config(**DEBERTA))
    randomise(reward, generator)
    pair = unigram(corpus)
    reward = save(reward, pair, HERE / "reward")

    shared.chat_template = CHATML
    labels = {0: "harmful", 1: "not-harmful"}
    chat_reward = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(
        **LLAMA, **SIZES["chat_reward"], pad_token_id=0, num_labels=2, id2label=labels,
        label2id={name: i for i, name in labels.items()}))
    randomise(chat_reward, generator)
    chat_reward = save(chat_reward, shared, HERE / "chat_reward")

    with (HERE / "dialogues.jsonl").open("w") as file:
        for _ in range(40):
            prompt, chosen, rejected = dialogue(rng)
            file.write(json.dumps(dict(chosen=prompt + chosen, rejected=prompt + rejected), ensure_ascii=False) + "\n")

    cases = []
    for i in range(10):
        prompt, *answers = dialogue(rng)
        for response in (answers + [" Über  naïve cafés\n\n1. 💡 one\n\n2. two", ""])[i % 4:i % 4 + 2]:
            text = prompt + response
            cases.append(dict(
                prompt=prompt, response=response,
                pair=logits(reward, pair([prompt], [response])),
                last_turn=logits(reward, pair([last_turn(prompt)], [response.strip()])),
                concat=logits(reward, pair([text])),
                right_40=logits(reward, pair([prompt], [response], truncation=True, max_length=40)),
                right_40_text=logits(reward, pair([text], truncation=True, max_length=40)),
                chat=logits(chat_reward, dict(input_ids=shared.apply_chat_template([conversation(prompt, response)],
                                                                                   return_dict=True)["input_ids"])),
                chat_concat=logits(chat_reward, dict(input_ids=shared([text])["input_ids"])),
                template=logits(chat_reward, dict(input_ids=shared([f"Q: {prompt}\nA: {response}<|endoftext|>"])["input_ids"]))))
    with (HERE / "scores.json").open("w") as file:
        json.dump(cases, file, ensure_ascii=False, indent=1)
        file.write("\n")


main()
