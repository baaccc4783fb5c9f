"""Records what the sentencepiece package, transformers and the tokenizers library make of awkward texts, for test_tokenizer_files.c.

    python make_tokenizer_files.py DATA OUT              writes OUT/tokenizer_files.json
    python make_tokenizer_files.py DATA --compare BIN N  compares BIN/tokenize with them on N texts for each file, and says where not

Python with transformers 5, tokenizers, sentencepiece, gguf and protobuf.  DATA holds tokenizers/, stories260K/, tinystories-char/,
text/ and hh-rlhf/.  Special tokens in a text are text here; test_tokenizer_files.c has them read as tokens by other cases.
"""
import base64, gzip, json, logging, pathlib, random, subprocess, sys, tempfile
import gguf, sentencepiece, transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers
from transformers.convert_slow_tokenizer import generate_merges

logging.disable(logging.WARNING)
data = pathlib.Path(sys.argv[1])
rng = random.Random(3)

BLOCKS = [(0x20, 0x7e), (0x20, 0x7e), (0x20, 0x7e), (0xa0, 0x17f), (0x300, 0x36f), (0x370, 0x52f), (0x5d0, 0x6ff), (0x900, 0x97f),
          (0xe00, 0xe7f), (0x1100, 0x11ff), (0x2000, 0x206f), (0x2190, 0x22ff), (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3),
          (0xf900, 0xfdff), (0xff01, 0xffee), (0x1f1e6, 0x1f1ff), (0x1f300, 0x1f64f), (0x9, 0xd), (0x1, 0xd7ff), (0xe000, 0x10ffff)]
BETWEEN = ["", " ", "  ", "   ", "\n", "\t", " \n ", "\u2581", "\u3000", "\u00a0", "'s", "12", " the ", "==", "<s>", "</s>", "<unk>", "[CLS]",
           "<0x0A>", "\U0001f468\u200d\U0001f469", "\U0001f44d\U0001f3fd", "e\u0301", "\ufb01", "don't"]
FIXED = ["", " ", "  ", "   ", "\n", "\t", "a", " a", "a ", "  a  b  ", "\u2581", "\u2581 a \u2581\u2581", "Hello, world!", "a\tb\nc\r\nd", "<s>",
         "</s>", "<unk>", "hello<s>world", "\u00e9 e\u0301 \u1e9b\u0323 \ufb01 \u212b", "\ud55c\uae00 \u4f60\u597d\uff0c\u4e16\u754c\u3002",
         "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467", "a\u00a0b\u2003c\u3000d", "\u200b\u200czero\ufeff", "\x01\x1f\x7f\x80", "=" * 37,
         " " * 33 + "x", "a" * 150, "3.14159e-10 1,234,567", "\u0130\u0131\u00df\u1e9e", "don't  [MASK] [CLS]x"]


def random_text():
    parts = []
    for _ in range(rng.randint(1, 6)):
        low, high = rng.choice(BLOCKS)
        parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))))
        parts.append(rng.choice(BETWEEN))
    return "".join(c for c in "".join(parts) if not 0xd800 <= ord(c) < 0xe000)


def real_texts(count):
    """Pieces of stories, plays and dialogues, some dialogues whole."""
    dialogues = [json.loads(line)["chosen"] for line in gzip.open(next((data / "hh-rlhf").glob("*.gz")))]
    sources = [path.read_text() for path in sorted((data / "text").glob("*.txt"))]
    for k in range(count):
        source = rng.choice(dialogues) if k % 2 else rng.choice(sources)
        at = rng.randrange(len(source))
        yield source if k % 10 == 1 else source[at:at + rng.randint(1, 250)]


def texts_of(count):
    made = [random_text() for _ in range(2 * count // 3)]
    return FIXED + made + list(real_texts(count - len(made)))


def package(path):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return processor.encode


def mapped_alike(model, texts):
    """The texts that the package maps as the tokenizers library does: where a mapped character carries combining marks they differ."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.read_bytes())
    mapper, encode = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap), package(model)
    proto.normalizer_spec.precompiled_charsmap = b""
    unmapped = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    return [text for text in texts if encode(text) == unmapped.encode(mapper.normalize_str(text))]


def legacy_llama(path):
    """As transformers 4 converts a Llama tokenizer, and as the tokenizer.json of Llama-2 is: pieces joined by score."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = generate_merges(vocabulary, {p: processor.get_score(i) for i, p in enumerate(pieces)})
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return lambda texts: [[1] + e.ids for e in tokenizer.encode_batch(texts)]


def library(tokenizer):
    tokenizer.encode_special_tokens = True
    return lambda texts: [e.ids for e in tokenizer.encode_batch(texts)]


def bert(lowercase):
    path = str(data / "tokenizers/bert-uncased/vocab.txt")
    return library(transformers.BertTokenizer(vocab=path, do_lower_case=lowercase)._tokenizer)


def roberta_directory(directory):
    """RoBERTa's tokenizer.json taken apart into the older files."""
    model = json.loads((data / "tokenizers/roberta-base/tokenizer.json").read_text())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (directory / "config.json").write_text('{"model_type": "roberta"}')


def t5_model(path):
    """T5's tokenizer.json as a SentencePiece model, and as GGUF beside it."""
    source = json.loads((data / "tokenizers/t5-small/tokenizer.json").read_text())
    charsmap = base64.b64decode(next(n["precompiled_charsmap"] for n in source["normalizer"].get("normalizers", [source["normalizer"]])
                                     if n["type"] == "Precompiled"))
    vocabulary = source["model"]["vocab"][:32000]
    model = sentencepiece_model_pb2.ModelProto()
    types = []
    for i, (piece, score) in enumerate(vocabulary):
        types.append({0: 3, 1: 3, 2: 2}.get(i, 1))
        model.pieces.add(piece=piece, score=score, type=types[-1])
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id, model.trainer_spec.pad_id = 2, -1, 1, 0
    model.normalizer_spec.precompiled_charsmap = charsmap
    path.write_bytes(model.SerializeToString())
    writer = gguf.GGUFWriter(str(path.with_suffix(".gguf")), "t5")
    writer.add_tokenizer_model("t5")
    writer.add_token_list([piece for piece, _ in vocabulary])
    writer.add_token_scores([score for _, score in vocabulary])
    writer.add_token_types(types)
    writer.add_precompiled_charsmap(charsmap)
    writer.add_remove_extra_whitespaces(True)
    writer.add_eos_token_id(1), writer.add_unk_token_id(2)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.close()


UNIGRAM = "tokenizers/sentencepiece/test_model.model"
WITNESSES = {
    "tokenizers/llama2/tokenizer.model": lambda: legacy_llama(data / "tokenizers/llama2/tokenizer.model"),
    "stories260K/tok512.model": lambda: legacy_llama(data / "stories260K/tok512.model"),
    "tinystories-char/tok105.model": lambda: legacy_llama(data / "tinystories-char/tok105.model"),
    "tokenizers/bert-uncased/vocab.txt": lambda: bert(True),
    UNIGRAM: lambda: package(data / UNIGRAM),
}


def compare(name, path, witness, texts):
    lines = "".join(json.dumps({"prompt": text}) + "\n" for text in texts)
    run = subprocess.run([sys.argv[3] + "/tokenize", "-m", str(path), "--encode", "--format", "jsonl"], input=lines, text=True,
                         capture_output=True, check=True)
    ours = [json.loads(line) for line in run.stdout.splitlines()]
    theirs = witness(texts)
    differ = [i for i in range(len(texts)) if ours[i] != list(theirs[i])]
    print(f"{name}: {len(texts)} texts, {len(differ)} differ")
    for i in sorted(differ, key=lambda i: len(texts[i]))[:5]:
        print("   ", ascii(texts[i][:100]), ours[i][:24], list(theirs[i])[:24])


def compare_all(texts):
    for name, witness in WITNESSES.items():
        compare(name, data / name, witness(), texts)
    alike = mapped_alike(data / UNIGRAM, texts)
    compare("the same, mapped alike", data / UNIGRAM, package(data / UNIGRAM), alike)
    real = list(real_texts(len(texts)))
    compare("the same, real texts", data / UNIGRAM, package(data / UNIGRAM), real)
    llama = package(data / "tokenizers/llama2/tokenizer.model")
    compare("llama2, package", data / "tokenizers/llama2/tokenizer.model", lambda t: [[1] + ids for ids in llama(t)], texts)
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        roberta_directory(directory)
        compare("RoBERTa, vocab.json and merges.txt", directory,
                library(transformers.RobertaTokenizer.from_pretrained(name)._tokenizer), texts)
        (directory / "cased").mkdir()
        (directory / "cased/vocab.txt").write_bytes((data / "tokenizers/bert-uncased/vocab.txt").read_bytes())
        (directory / "cased/tokenizer_config.json").write_text('{"do_lower_case": false}')
        compare("BERT, do_lower_case false", directory / "cased", bert(False), texts)
        t5_model(directory / "t5.model")
        t5 = package(directory / "t5.model")
        alike = mapped_alike(directory / "t5.model", texts)
        compare("T5 as *.model, package, mapped alike", directory / "t5.model", t5, alike)
        compare("T5 as GGUF, package, mapped alike", directory / "t5.gguf", lambda t: [ids + [1] for ids in t5(t)], alike)
        # In tokenizer.json U+2581 is no space at the end of a text, and the model finds special tokens even where they are text.
        ordinary = [text for text in texts if "\u2581" not in text and "<" not in text]
        json_t5 = Tokenizer.from_file(str(data / "tokenizers/t5-small/tokenizer.json"))
        compare("T5 as GGUF, tokenizer.json", directory / "t5.gguf", library(json_t5), ordinary)


if sys.argv[2] == "--compare":
    compare_all(texts_of(int(sys.argv[4])))
else:
    texts = FIXED + [random_text() for _ in range(130)] + list(real_texts(20))
    texts = mapped_alike(data / UNIGRAM, [text[:300] for text in texts])
    record = {"texts": texts, **{name: [list(ids) for ids in witness()(texts)] for name, witness in WITNESSES.items()}}
    (pathlib.Path(sys.argv[2]) / "tokenizer_files.json").write_text(json.dumps(record, separators=(",", ":")))
