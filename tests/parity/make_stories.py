"""make_stories.py - log-probabilities that PyTorch gives to tokens under stories260K.

    python tests/parity/make_stories.py stories260K.bin          (python with torch)

Reads the llama2.c checkpoint, not the GGUF file that the test opens, and turns neighbouring channels as llama2.c does: a second
way from the same numbers.  Writes tests/parity/stories.json:

    tokens     the begin token, 255 tokens sampled from the model, 144 drawn uniformly
    logprobs   of each token after the first, natural logarithm, computed in float64
"""
import json
import pathlib
import struct
import sys

import numpy
import torch

SAMPLED, DRAWN = 255, 144


def read(path):
    data = pathlib.Path(path).read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, positions = struct.unpack("<7i", data[:28])
    assert vocab > 0, "embeddings are tied in this checkpoint"
    floats = torch.from_numpy(numpy.frombuffer(data, "<f4", offset=28).astype("f8"))
    size, at = dim // heads, 0
    w = {}
    for name, *shape in [("embedding", vocab, dim), ("attn_norm", layers, dim), ("q", layers, heads * size, dim),
                         ("k", layers, kv_heads * size, dim), ("v", layers, kv_heads * size, dim), ("o", layers, dim, dim),
                         ("ff_norm", layers, dim), ("gate", layers, hidden, dim), ("down", layers, dim, hidden),
                         ("up", layers, hidden, dim), ("final_norm", dim)]:
        count = int(numpy.prod(shape))
        w[name] = floats[at:at + count].view(shape)
        at += count
    return w, heads, kv_heads, size


def norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def turn(x):  # (T, H, HS)
    size = x.shape[-1]
    frequency = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(x.shape[0], dtype=torch.float64), frequency)
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.view_as_real(turned).flatten(-2)


def logprobs(model, tokens):
    w, heads, kv_heads, size = model
    x = w["embedding"][tokens]
    T = len(tokens)
    mask = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)
    for l in range(w["q"].shape[0]):
        n = norm(x, w["attn_norm"][l])
        q = turn((n @ w["q"][l].T).view(T, heads, size))
        k = turn((n @ w["k"][l].T).view(T, kv_heads, size)).repeat_interleave(heads // kv_heads, 1)
        v = (n @ w["v"][l].T).view(T, kv_heads, size).repeat_interleave(heads // kv_heads, 1)
        attention = torch.softmax(torch.einsum("thc,shc->hts", q, k) / size ** 0.5 + mask, -1)
        x = x + torch.einsum("hts,shc->thc", attention, v).reshape(T, -1) @ w["o"][l].T
        n = norm(x, w["ff_norm"][l])
        x = x + (torch.nn.functional.silu(n @ w["gate"][l].T) * (n @ w["up"][l].T)) @ w["down"][l].T
    return torch.log_softmax(norm(x, w["final_norm"]) @ w["embedding"].T, -1)


def main():
    model = read(sys.argv[1])
    generator = torch.Generator().manual_seed(260)
    tokens = [1]
    for _ in range(SAMPLED):
        tokens.append(int(torch.multinomial(logprobs(model, tokens)[-1].exp(), 1, generator=generator)))
    tokens += torch.randint(3, 512, (DRAWN,), generator=generator).tolist()
    of_next = logprobs(model, tokens)[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    out = pathlib.Path(__file__).resolve().parent / "stories.json"
    out.write_text(json.dumps({"tokens": tokens, "logprobs": [round(p, 7) for p in of_next.tolist()]}) + "\n")
    print("mean log-probability sampled", of_next[:SAMPLED].mean().item(), "drawn", of_next[SAMPLED:].mean().item())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
