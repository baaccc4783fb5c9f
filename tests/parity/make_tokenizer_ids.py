"""Records what the tokenizers library makes of awkward texts, for test_tokenizer_ids.c.

    python make_tokenizer_ids.py DATA WRITTEN OUT

Python with tokenizers 0.20 or later.  DATA holds tokenizers/llama2, tokenizers/gpt2, tokenizers/roberta-base and text/.
WRITTEN is the directory that `test_tokenizer_ids --write WRITTEN` filled: stories/ and trained/, whose tokenizer.json the
library reads here; their digests are recorded, so the C test knows that what it writes is what the library read.
"""
import hashlib, json, pathlib, random, sys
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

data, written, out = map(pathlib.Path, sys.argv[1:4])
rng = random.Random(1)

FIXED = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "a", " a", "a ", "  a  b  ", "Hello, world!",
    "I'm you're we'll it'd THEY'VE 'S 's'S", "'\u017f 'LL", "don't  stop", "x=1;y=22;z=333;w=4444;v=55555",
    "1,234,567.89", "3.14159e-10", "\u0967\u0968\u0969 \u2167 \u00bd \u00b2", "=" * 37, "-" * 70, " " * 33 + "x",
    "a" * 100, "ab" * 50, "\u00e9 e\u0301 \u1e9b\u0323 \ufb01 \u212b \u2126",
    "\uac00\u11a7 \u1100\u1161\u11a8 \ud55c\uae00", "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\u00a0nbsp\u00a0\u2003em\u3000wide", "\u180e mongolian\u180e", "\u0085next\u0085", "\u2028\u2029",
    "\u200b\u200czero\ufeff", "\x01\x02\x1f\x7f\x80", "\ufffd", "\U0010ffff\ue000", "\u2581already\u2581marked \u2581",
    "<0x0A><0xE2>", "tab\tand\nnewline\r\n", "<s>", "</s>", "<unk>", "hello<s>world", "hello <s> world",
    "<s>hello</s> <s> x", "<s><s>", "<|endoftext|>", "a<|endoftext|>b <|endoftext|> c", "<|endoftext", "<s",
    "<mask> x <mask>", "[A] [AB] [ABC]", "x[A]y", "word[W]word [W] [W]", "  [L]  [R]  ", "[N] [n] \u00c5[N]",
    "import os\n\ndef f(x):\n    return x**2  # square\n", "https://example.org/a?b=c&d=%20#e",
    "The quick brown fox jumps over the lazy dog.",
    "\u0391\u03b2\u03b3 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438 \u010ce\u0161tina \u00df \u0130\u0131",
    "e\u0327\u0301\u0300 a\u0308\u0323",
]
BLOCKS = [(0x20, 0x7e), (0x20, 0x7e), (0xa0, 0x17f), (0x300, 0x36f), (0x370, 0x52f), (0x5d0, 0x6ff), (0x900, 0x97f),
          (0x1100, 0x11ff), (0x2000, 0x206f), (0x2190, 0x22ff), (0x3000, 0x30ff), (0x4e00, 0x4fff), (0xac00, 0xacff),
          (0x1f300, 0x1f64f), (0x9, 0xd)]


def random_text():
    parts = []
    for _ in range(rng.randint(1, 6)):
        low, high = rng.choice(BLOCKS)
        parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))))
        parts.append(rng.choice(["", " ", "  ", "\n", "'s", "12", " the ", "==", "\u2581"]))
    return "".join(parts)


TEXTS = FIXED + [random_text() for _ in range(180)]
corpus = (data / "text/tinyshakespeare.txt").read_text()


def ids_of(tokenizer, texts=TEXTS):
    """Plain: special tokens in a text are text.  Full: they are tokens, and the template stands around the text."""
    tokenizer.encode_special_tokens = True
    plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    tokenizer.encode_special_tokens = False
    return {"plain": plain, "full": [tokenizer.encode(text).ids for text in FIXED]}


def llama2():
    # The file has three merges whose tokens hold spaces, which the library reads only as pairs.
    source = json.loads((data / "tokenizers/llama2/tokenizer.json").read_text())
    pairs = {"   ": [" ", " "], "     ": ["  ", "  "], "\u2581  ": ["\u2581", " "]}
    source["model"]["merges"] = [pairs[merge] if merge in pairs else merge.split(" ") for merge in source["model"]["merges"]]
    return Tokenizer.from_str(json.dumps(source))


def gpt2():
    vocabulary, merges = str(data / "tokenizers/gpt2/vocab.json"), str(data / "tokenizers/gpt2/merges.txt")
    tokenizer = Tokenizer(models.BPE.from_file(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def train(pre_tokenizer, normalizer=None, size=290, alphabet=True, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator([corpus[:60000]], trainers.BpeTrainer(vocab_size=size, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else []))
    return tokenizer


SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = SUFFIXES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")


def kinds():
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda pattern, behavior, invert=False: pre_tokenizers.Split(pattern, behavior, invert)
    sequence = lambda *steps: pre_tokenizers.Sequence(list(steps))

    llama3 = train(sequence(split(Regex(LLAMA3), "isolated"), letters), ignore_merges=True)
    llama3.add_special_tokens(["<s>", "</s>"])
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 290), ("</s>", 291)])])
    yield llama3

    qwen2 = train(sequence(split(Regex(QWEN2), "isolated"), letters), normalizers.NFC())
    qwen2.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    qwen2.add_tokens([AddedToken("[A]"), AddedToken("[AB]", normalized=False),
                      AddedToken("[W]", single_word=True, normalized=False), AddedToken("[L]", lstrip=True, normalized=False),
                      AddedToken("[R]", rstrip=True, normalized=False), AddedToken("\u00c5[N]", normalized=True)])
    yield qwen2

    yield train(sequence(pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)),
                normalizers.NFKC())
    yield train(sequence(pre_tokenizers.Digits(individual_digits=False), split(" ", "merged_with_previous"), letters),
                normalizers.NFD())
    yield train(sequence(split(" ", "merged_with_next"), letters), normalizers.NFKD())
    yield train(sequence(split(Regex(r"[\s,.]"), "contiguous"), split(Regex(r"\w+"), "removed", True), letters))
    for scheme, cut in [("always", True), ("first", True), ("never", False)]:
        metaspace = train(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=cut), size=150, alphabet=False)
        source = json.loads(metaspace.to_str())
        vocabulary = source["model"]["vocab"]
        vocabulary["<unk>"] = len(vocabulary)
        if scheme != "never":
            for byte in range(256):
                vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
        source["model"].update(byte_fallback=scheme != "never", fuse_unk=scheme == "never", unk_token="<unk>")
        source["decoder"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": cut}
        metaspace = Tokenizer.from_str(json.dumps(source))
        metaspace.add_special_tokens(["<s>"])
        yield metaspace


def trained():
    """The library's own trainer on what tokenizer_train reads: documents between empty lines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    documents = [document for document in corpus[:200000].split("\n\n") if document]
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=700, show_progress=False,
        special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    vocabulary = tokenizer.get_vocab()
    return [[vocabulary[left], vocabulary[right]] for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def written_tokenizer(name):
    path = written / name / "tokenizer.json"
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **ids_of(Tokenizer.from_file(str(path)))}


record = {
    "texts": TEXTS,
    "llama2": ids_of(llama2()),
    "gpt2": ids_of(gpt2()),
    "roberta": ids_of(Tokenizer.from_file(str(data / "tokenizers/roberta-base/tokenizer.json"))),
    "trained_merges": trained(),
    "stories": written_tokenizer("stories"),
    "trained": written_tokenizer("trained"),
}
dump = lambda value: json.dumps(value, separators=(",", ":"))
(out / "tokenizer_ids.json").write_text(dump(record))
(out / "tokenizer_kinds.json").write_text(dump([{
    "tokenizer": json.loads(tokenizer.to_str()),
    "decoded": [tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) for text in TEXTS[:20]],
    **ids_of(tokenizer, TEXTS[:len(FIXED) + 25]),
} for tokenizer in kinds()]))
