"""Frames as Python's msgpack writes them, and what they say: the witness of the codec in common/wire.

    python3 tests/parity/make_frames.py > tests/parity/frames.json
    python3 tests/parity/make_frames.py tests/fuzz/corpus/frame     (one file a frame)

Needs the package msgpack.  Each case has the bytes in hex, the JSON that tap prints, and whether encoding it again must give the
same bytes: fields in the order of schemas/frames.def, nothing that could be left out, each number in its smallest form.
"""
import json, math, pathlib, struct, sys

import msgpack

TEXT = "Once upon a time, caf\u00e9 \u4f60\u597d \U0001f600\n\ttab \"quote\" \\"
HEX64 = "0123456789abcdef" * 4


class Tokens(list):
    pass


class Floats(list):
    pass


def wire(value):
    if isinstance(value, Tokens):
        return msgpack.ExtType(1, struct.pack("<%di" % len(value), *value))
    if isinstance(value, Floats):
        return msgpack.ExtType(2, struct.pack("<%df" % len(value), *value))
    return value


def shown(value):
    if isinstance(value, Floats):
        return [struct.unpack("<f", struct.pack("<f", x))[0] for x in value]
    return len(value) if isinstance(value, bytes) else value


def pack(fields, **options):
    return msgpack.packb({name: wire(value) for name, value in fields.items()}, use_bin_type=True, **options)


prompt = {"prompt_key": "k" * 32, "tokenizer": "t" * 32, "split": "train", "prompt": TEXT,
          "prompt_tokens": Tokens([1, 2, 31999, 2**31 - 1]), "sample": 3}
rollout = {**prompt, "policy": "base", "response": "x" * 300, "response_tokens": Tokens(range(70)),
           "logprobs": Floats([-0.1 * i for i in range(70)]), "stopped": 1, "kl": 0.1}
scored = {**rollout, "reward": "kind", "score": -1.25, "run": "r", "batch": 0, "batch_size": 32, "batches": 70000, "step": 2**53 - 1}
target = {**scored, "values": Floats([1e-45, 3.4e38, -0.0]), "targets": Floats([math.pi] * 71)}
delivery = {"item": 2**32, "output": 65536}
checkpoint = {"run": "r", "step": 40, "kind": "weights", "batch": 0, "sha256": HEX64, "size": 3, "offset": 0, "data": b"\0\1\xff", "final": 1}

frames = [
    ("prompt", {**delivery, **prompt}),
    ("prompt", {k: v for k, v in prompt.items() if k != "sample"} | {"prompt": ""}),
    ("rollout", {**delivery, **rollout}),
    ("rollout", {k: v for k, v in rollout.items() if k not in ("logprobs", "stopped", "kl")}),
    ("scored", {**delivery, **scored}),
    ("target", {**delivery, **target}),
    ("checkpoint", {**delivery, **checkpoint}),
    ("metric", {"output": 1, "subject": "r", "step": 128, "numbers": '{"loss":0.5}'}),
    ("hello", {"stage": "rollout", "worker": "host, process 1", "settings": "{}"}),
    ("hello", {"stage": "rollout", "worker": "host, process 1", "settings": "{}", "again": 1}),
    ("welcome", {"settings": '{"checkpoint":-1}', "missing": 32768, "holds": 1}),
    ("hold", {"item": 2**53 - 1, "prompt_key": "k" * 32}),
    ("hold", {"item": 1, "prompt_key": "k" * 32, "sample": 3, "policy": "base", "batch": 0, "step": 70000}),
    ("want", {"count": 127}),
    ("ack", {"outputs": Tokens([1, 2, 3])}),
    ("ack", {"outputs": Tokens(range(1, 6))}),
    ("idle", {"missing": 0, "final": 1}),
    ("beat", {}),
    ("beat", {"held": 255}),
    ("failed", {"item": 9, "output": 10, "reason": "prompt has 9 tokens, limit 8"}),
    ("refusal", {"output": 10, "reason": "no", "fatal": 1}),
    ("stranger", {}),
    ("bye", {}),
    ("fetch", {"run": "r", "step": -1, "kind": "full", "offset": 4194304}),
    ("find", {"model": "base"}),
    ("model", {"model": "base", "files": '[{"name":"a.gguf","size":3,"sha256":"%s"}]' % HEX64}),
    ("read", {"sha256": HEX64, "offset": 262144, "size": 4194304}),
    ("piece", {"sha256": HEX64, "offset": 0, "data": b"\0\1\xff"}),
]

cases = []
for kind, fields in frames:
    whole = {"v": 1, "type": kind, **fields}
    cases.append((kind, pack(whole), fields, True))
    cases.append((kind + "_reversed", pack(dict(reversed(whole.items()))), fields, False))

# What another program may write: numbers in other forms, absence spelled out, fields of a later version.
loose = {"type": "scored", "new": {"a": [1, None, True, b"x", {"b": 1.5}]}, **scored, "v": 1, "score": 2, "kl": 0.5, "step": -1, "item": 0, "values": Floats([])}
shown_loose = {**{k: v for k, v in scored.items() if k != "step"}, "score": 2.0, "kl": 0.5}
cases.append(("scored_loose", pack(loose, use_single_float=True), shown_loose, False))

if len(sys.argv) > 1:
    seen = {}
    for name, data, _, _ in cases:
        seen[name] = seen.get(name, 0) + 1
        if not name.endswith("_reversed") or name == "target_reversed":
            pathlib.Path(sys.argv[1], "%s_%d.frame" % (name, seen[name])).write_bytes(data)
else:
    json.dump([{"bytes": data.hex(), "json": {"type": msgpack.unpackb(data)["type"], **{k: shown(v) for k, v in fields.items()}},
                "same": bool(same)} for _, data, fields, same in cases], sys.stdout, separators=(",", ":"))
    print()
