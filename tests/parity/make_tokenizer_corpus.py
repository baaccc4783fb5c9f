"""Records what the tokenizers library makes of awkward texts with the tokenizers that models use, for test_tokenizer_corpus.c.

    python make_tokenizer_corpus.py DATA OUT.json            a few texts each, the committed fixture
    python make_tokenizer_corpus.py DATA DIRECTORY COUNT     COUNT texts each: DIRECTORY/NAME.json the tokenizer,
                                                             DIRECTORY/NAME.jsonl a text, its ids and their text a line

Python with tokenizers, transformers, sentencepiece and protobuf.  DATA holds tokenizers/, hh-rlhf/ and text/.  The small tokenizers are
trained anew each time, where the library breaks ties by chance; they stand in the fixture beside what was recorded of them.
"""
import gzip, json, pathlib, random, sys, tempfile, unicodedata
import sentencepiece
from tokenizers import (AddedToken, BertWordPieceTokenizer, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)
from transformers import DebertaV2Tokenizer

data, out = map(pathlib.Path, sys.argv[1:3])
count = int(sys.argv[3]) if len(sys.argv) > 3 else 150
rng = random.Random(2)
shakespeare = (data / "text/tinyshakespeare.txt").read_text()
dialogues = [json.loads(line)["chosen"] for line in gzip.open(data / "hh-rlhf/harmless-base-test.jsonl.gz", "rt")]

FIXED = [
    "", " ", "  ", "\n", "\t \n", "\u3000", " a", "a ", "Hello, world!", "don't  stop", "It's   n't do not 'm 's 've 're .",
    "a . b ? c ! d , e ' f", "U.S.A. ... ?!", "caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m \u212b",
    "\u0130stanbul \u0131 \u1e9e\u00df",
    "\ufb01 \u2460 \u00bd \u33a5 \ufdfa \u3371", "\uff21\u0301 \u00aa\u0301 \u00aa\u0897 \r\n \r\r\n x",
    "\uac00\u11a7 \u1100\u1161\u11a8",
    "\u4f60\u597dworld\u4e16\u754c \U00020000\u9fff", "\u3072\u3089\u30ac\u30ca \uff76\uff9e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\U0001f1eb \u2764\ufe0f \U0001f44d\U0001f3fd",
    "\u200bzero\u200d \ufeff\u00ad\u2060", "\u0085\u2028\u2029\u00a0\u180e", "\x01\x02\x7f\x8f\x9f", "\ufffd\ufffe",
    "\u2581a \u2581\u2581b",
    "a" * 101, "\u00e9" * 100, "\u00df" * 101, "x" * 300, "unaffable unwanted running", "<s> </s> <pad> <unk> <mask>",
    "[CLS] a [SEP] b [MASK] [UNK] [PAD]", "a [MASK]b <mask>  c", "\uff1c/s\uff1e \uff3bSEP\uff3d",
    "<extra_id_0> <extra_id_99>x",
    "  lead", "trail  ", "a  b   c\n\n\nd", "foo_bar-baz/qux$%^&*()+={}|~`<>",
    "\u2014\u2013\u201cquoted\u201d\u2018s\u2019\u00bf\u00a1",
    "def f(x):\n\treturn x**2  # \u03c0r\u00b2\n", "1,234.56 2024-01-01 \u0661\u0662\u0663",
    "a\u0301\u0323 a\u0323\u0301 \u1e69",
    "\u0915\u094d\u0937 \u0ba8\u0bbf \u0d4e\u0d15", "\U0001d54f\U0001d7d8 \U00011938\U00011935\U00011930 \u1acf \U0001e08f",
]
BLOCKS = [(0x20, 0x7e), (0x20, 0x7e), (0xa0, 0x24f), (0x250, 0x36f), (0x370, 0x58f), (0x590, 0x8ff), (0x900, 0x1fff),
          (0x2000, 0x2bff), (0x2e80, 0x33ff), (0x3400, 0x9fff), (0xa000, 0xabff), (0xac00, 0xd7ff), (0xf900, 0xffff),
          (0x10000, 0x11fff), (0x12000, 0x1bfff), (0x1c000, 0x1efff), (0x1f000, 0x1faff), (0x20000, 0x2ffff), (0x30000, 0x3ffff), (0xe0000, 0x10ffff)]
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f4bb", "\u2764\ufe0f", "\U0001f44d\U0001f3ff", "\U0001f1fa\U0001f1f8",
         "1\ufe0f\u20e3", "\U0001f3f4\U000e0067\U000e0062\U000e007f"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\u200b", "\v\f", "   \n  "]
MARKS = ["\u0300", "\u0301", "\u0308", "\u0323", "\u0345", "\u093c", "\u20dd", "\u1df8", "\u0897", "\u1ab0", "\ufe0f", "\u200d"]
CODE = ["for (int i = 0; i < n; i++) {\n        x[i] += 1;\n    }", "#include <stdio.h>", "print(f\"{a!r:>10}\")",
        "a->b.c::d<T>()", "SELECT * FROM t WHERE x >= '1';", "https://example.org/a?b=c&d=%20#e", "0xDEADBEEF 1e-10",
        "<div class=\"x\">&amp;</div>"]
SPECIALS = ["<s>", "</s>", "[SEP]", "[MASK]", "<mask>", "<unk>", "[UNK]", "<|endoftext|>", "<extra_id_7>", "[CLS]"]


def block_run():
    low, high = rng.choice(BLOCKS)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8)))


def any_character():
    return chr(rng.choice([rng.randint(1, 0xd7ff), rng.randint(0xe000, 0xffff), rng.randint(0x10000, 0x10ffff)]))


def slice_of(text, longest):
    start = rng.randrange(len(text))
    return text[start:start + rng.randint(1, longest)]


def broken():
    """Bytes that are no UTF-8, read with U+FFFD as every program here does."""
    raw = bytearray((block_run() + slice_of(shakespeare, 30)).encode())
    for _ in range(rng.randint(1, 4)):
        raw[rng.randrange(len(raw))] = rng.randrange(1, 256)
    return raw.decode(errors="replace").replace("\0", "")


PARTS = [
    (6, lambda: slice_of(rng.choice(dialogues), 200)), (4, lambda: slice_of(shakespeare, 120)), (4, block_run),
    (2, lambda: "".join(any_character() for _ in range(rng.randint(1, 6)))), (2, lambda: rng.choice(EMOJI)),
    (3, lambda: "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 4)))),
    (3, lambda: rng.choice("aeioucnAEIOU\u00e4\u1e9b\uff21\u00aa\u0915\u2460")
     + rng.choice(MARKS) + rng.choice(["", rng.choice(MARKS)])),
    (2, lambda: rng.choice(CODE)), (1, broken), (1, lambda: rng.choice(SPECIALS)),
    (1, lambda: unicodedata.normalize("NFD", 
     slice_of("Vi\u1ec7t Nam \u00e9t\u00e9 \u00fcber \ud55c\uad6d\uc5b4 \u304c\u304e", 12))),
]


def random_text(longest):
    text = "".join(part() for part in rng.choices([p for _, p in PARTS], [w for w, _ in PARTS], k=rng.randint(1, longest)))
    return text.replace("\0", "")


def gpt2():
    vocabulary, merges = str(data / "tokenizers/gpt2/vocab.json"), str(data / "tokenizers/gpt2/merges.txt")
    tokenizer = Tokenizer(models.BPE.from_file(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def llama2():
    # The file has three merges whose tokens hold spaces, which the library reads only as pairs.
    source = json.loads((data / "tokenizers/llama2/tokenizer.json").read_text())
    pairs = {"   ": [" ", " "], "     ": ["  ", "  "], "\u2581  ": ["\u2581", " "]}
    source["model"]["merges"] = [pairs[merge] if merge in pairs else merge.split(" ") for merge in source["model"]["merges"]]
    return Tokenizer.from_str(json.dumps(source))


def from_file(name):
    return Tokenizer.from_file(str(data / f"tokenizers/{name}/tokenizer.json"))


def bert():
    tokenizer = BertWordPieceTokenizer(str(data / "tokenizers/bert-uncased/vocab.txt"))
    return Tokenizer.from_str(tokenizer.to_str())


def sentencepieces(size=900, **options):
    """Pieces and scores of a small unigram model, and its map of characters."""
    with tempfile.TemporaryDirectory() as directory:
        text = pathlib.Path(directory) / "text"
        text.write_text(shakespeare[:300000] + "\n" + "\n".join(d.replace("\n", " ") for d in dialogues[:150]))
        sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=directory + "/m", vocab_size=size, minloglevel=2,
            pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
            character_coverage=0.999, num_threads=1, **options)
        model = sentencepiece.SentencePieceProcessor(model_file=directory + "/m.model")
        pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
        from sentencepiece import sentencepiece_model_pb2 as pb
        proto = pb.ModelProto.FromString((pathlib.Path(directory) / "m.model").read_bytes())
    return pieces, proto.normalizer_spec.precompiled_charsmap


def deberta(size=900):
    """As transformers makes DeBERTa-v2's and v3's."""
    pieces, _ = sentencepieces(size, normalization_rule_name="identity")
    return DebertaV2Tokenizer(vocab=pieces + [("[MASK]", 0.0)]).backend_tokenizer


def deberta_charsmap(rules=None, size=900):
    """As transformers' converter of SentencePiece models makes them; rules: a map of characters of its own, small."""
    with tempfile.TemporaryDirectory() as directory:
        options = {"normalization_rule_name": "nmt_nfkc_cf"}
        if rules:
            (pathlib.Path(directory) / "rules").write_text("".join(f"{a}\t{b}\n" for a, b in rules))
            options = {"normalization_rule_tsv": directory + "/rules"}
        pieces, charsmap = sentencepieces(size, **options)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Precompiled(charsmap),
                                                 normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("isolated"),
                                                       pre_tokenizers.Metaspace(prepend_scheme="first" if rules else "always")])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first" if rules else "always")
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", AddedToken("[MASK]", special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                                             special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return tokenizer


RULES = [("41", "61"), ("391", "3B1"), ("FB01", "66 69"), ("AD", ""), ("D A", "20"), ("D", "20"), ("65 301", "E9"),
         ("AA", "61"), ("2460", "31"), ("FF21", "41"), ("130", "69 307")]


def train(model, trainer, size=400, normalizer=None, pre_tokenizer=None, decoder=None, specials=("[UNK]",), **options):
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    if decoder:
        tokenizer.decoder = decoder
    texts = [shakespeare[:40000], " ".join(FIXED)]
    tokenizer.train_from_iterator(texts, trainer(vocab_size=size, show_progress=False, special_tokens=list(specials), **options))
    return tokenizer


def kinds():
    """Small tokenizers that between them have every kind of step which the real ones lack."""
    sequence, steps = pre_tokenizers.Sequence, normalizers.Sequence
    cased = train(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=12), trainers.WordPieceTrainer,
                  normalizer=normalizers.BertNormalizer(lowercase=False, handle_chinese_chars=False),
                  pre_tokenizer=pre_tokenizers.BertPreTokenizer(), decoder=decoders.WordPiece(cleanup=False),
                  specials=["[UNK]", "[CLS]", "[SEP]"])
    cased.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    yield "cased", cased
    gpt1 = train(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), trainers.BpeTrainer, specials=["<unk>"],
                 normalizer=normalizers.BertNormalizer(), pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
                 decoder=decoders.BPEDecoder(), end_of_word_suffix="</w>")
    yield "gpt1", gpt1
    yield "continuing", train(models.BPE(unk_token="[UNK]", continuing_subword_prefix="@@", fuse_unk=True), trainers.BpeTrainer,
                              normalizer=steps([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
                              pre_tokenizer=pre_tokenizers.Whitespace(), decoder=decoders.WordPiece(prefix="@@"),
                              continuing_subword_prefix="@@")
    yield "wordlevel", train(models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer, size=300,
                             normalizer=steps([normalizers.Nmt(), normalizers.Strip(left=True, right=False)]),
                             pre_tokenizer=sequence([pre_tokenizers.CharDelimiterSplit(" "),
                                                     pre_tokenizers.Punctuation("merged_with_previous")]))
    fallback = train(models.Unigram(), trainers.UnigramTrainer, size=300, unk_token="<unk>", specials=["<unk>"],
                     normalizer=steps([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Prepend("\u2581"),
                                       normalizers.Replace(" ", "\u2581")]),
                     decoder=decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                                decoders.Strip(" ", 1, 0)]))
    source = json.loads(fallback.to_str())
    source["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    source["model"]["byte_fallback"] = True
    yield "fallback", Tokenizer.from_str(json.dumps(source))
    letters = train(models.BPE(), trainers.BpeTrainer, size=330, specials=[], normalizer=normalizers.ByteLevel(),
                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), decoder=decoders.ByteLevel(),
                    pre_tokenizer=pre_tokenizers.Split(Regex("\u0120?[A-Za-z]+|\u0120?[^A-Za-z\u0120]+|\u0120+"), "isolated"))
    yield "letters", letters


REAL = {"gpt2": gpt2, "llama2": llama2, "roberta-base": lambda: from_file("roberta-base"),
        "t5-small": lambda: from_file("t5-small"), "bert-uncased": bert}


def result(tokenizer, text):
    """Special tokens are dropped here: the library keeps those that are normalised ("<s>" is "\u2581<s>" to it then)."""
    ids = tokenizer.encode(text).ids
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    kept = [id for id in ids if id not in special]
    decoded = tokenizer.decode(kept) if kept else ""
    return [ids] if decoded == text else [ids, decoded]


def pair(tokenizer, first, second):
    encoding = tokenizer.encode(first, second)
    return [encoding.ids, encoding.type_ids]


def small():
    texts = FIXED + [random_text(3)[:60] for _ in range(count - len(FIXED))]
    own = {"deberta": deberta(450), "deberta-charsmap": deberta_charsmap(RULES, 450), **dict(kinds())}
    record = {"texts": texts, "pair": [FIXED[8], FIXED[10]], "real": {}, "own": {}}
    for name, make in REAL.items():
        tokenizer = make()
        record["real"][name] = {"texts": [result(tokenizer, text) for text in texts], "pair": pair(tokenizer, *record["pair"])}
    for name, tokenizer in own.items():
        record["own"][name] = {"tokenizer": json.loads(tokenizer.to_str()), "pair": pair(tokenizer, *record["pair"]),
                               "texts": [result(tokenizer, text) for text in FIXED]}
    out.write_text(json.dumps(record, separators=(",", ":"), ensure_ascii=True))


def large():
    out.mkdir(exist_ok=True)
    makers = {**REAL, "deberta": deberta, "deberta-charsmap": deberta_charsmap, "deberta-rules": lambda: deberta_charsmap(RULES)}
    texts = FIXED + [random_text(6) for _ in range(count - len(FIXED))]
    for name, tokenizer in [(name, make()) for name, make in makers.items()] + list(kinds()):
        (out / f"{name}.json").write_text(tokenizer.to_str())
        with open(out / f"{name}.jsonl", "w") as file:
            for text in texts:
                print(json.dumps([text] + result(tokenizer, text)), file=file)


small() if len(sys.argv) == 3 else large()
