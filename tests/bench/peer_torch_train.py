"""peer_torch_train.py - what bench_train.c measures, in PyTorch: positions a second of training a value model.

    python tests/bench/peer_torch_train.py SHAPE LENGTHS THREADS ROUNDS float32|bf16 WEIGHTS [LORA_RANK]

SHAPE: tinyllama, or C,L,NH,NKV,F,V.  LENGTHS: NxT, or a file of numbers, of which 8 after 8 make a batch, padded to its longest.  bf16 is
torch.autocast.  WEIGHTS: what bench_train -w wrote.  With a rank, adapters of alpha 16 on q, k, v and o of frozen weights.  Prints positions a
second, not counting padding, over all rounds, then the loss of each, that of the round before the first, which is not timed, included.
"""
import json
import os
import sys
import time

import torch
import torch.nn.functional as F

BATCH = 8


class Linear(torch.nn.Module):
    """x W^T, with adapters x W^T + alpha / rank (x A^T) B^T of a frozen W."""

    def __init__(self, inputs, outputs, rank=0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(outputs, inputs))
        self.rank = rank
        if rank:
            self.a = torch.nn.Parameter(torch.empty(rank, inputs))
            self.b = torch.nn.Parameter(torch.empty(outputs, rank))

    def forward(self, x):
        y = F.linear(x, self.weight)
        return y + F.linear(F.linear(x, self.a), self.b) * (16.0 / self.rank) if self.rank else y


def rotate(x, cosine, sine):
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), -1)


class Layer(torch.nn.Module):
    def __init__(self, C, NH, NKV, F_, rank):
        super().__init__()
        self.NH, self.NKV, self.HS = NH, NKV, C // NH
        self.norm_attn, self.norm_ff = torch.nn.RMSNorm(C, 1e-5), torch.nn.RMSNorm(C, 1e-5)
        self.q, self.k, self.v = Linear(C, C, rank), Linear(C, NKV * self.HS, rank), Linear(C, NKV * self.HS, rank)
        self.o = Linear(C, C, rank)
        self.gate, self.up, self.down = Linear(C, F_), Linear(C, F_), Linear(F_, C)

    def forward(self, x, cosine, sine):
        B, T, C = x.shape
        h = self.norm_attn(x)
        q = rotate(self.q(h).view(B, T, self.NH, self.HS).transpose(1, 2), cosine, sine)
        k = rotate(self.k(h).view(B, T, self.NKV, self.HS).transpose(1, 2), cosine, sine)
        v = self.v(h).view(B, T, self.NKV, self.HS).transpose(1, 2)
        # padding is on the right, where causal attention never sees it
        y = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), is_causal=True, enable_gqa=self.NH != self.NKV)
        x = x + self.o(y.transpose(1, 2).reshape(B, T, C))
        h = self.norm_ff(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Value(torch.nn.Module):
    def __init__(self, C, L, NH, NKV, F_, V, rank):
        super().__init__()
        self.embedding = torch.nn.Embedding(V, C)
        self.layers = torch.nn.ModuleList(Layer(C, NH, NKV, F_, rank) for _ in range(L))
        self.norm, self.head = torch.nn.RMSNorm(C, 1e-5), torch.nn.Linear(C, 1)
        self.HS = C // NH
        if rank:
            for name, weight in self.named_parameters():
                weight.requires_grad = name.endswith((".a", ".b")) or name.startswith("head")

    def forward(self, tokens):
        T = tokens.shape[1]
        frequency = 10000.0 ** (-torch.arange(0, self.HS, 2) / self.HS)
        angle = torch.arange(T)[:, None] * frequency[None]
        x, cosine, sine = self.embedding(tokens), angle.cos(), angle.sin()
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return self.head(self.norm(x))[..., 0]


NAMES = {
    "embedding": "model.embed_tokens", "norm": "model.norm", "head": "v_head.summary", "norm_attn": "input_layernorm",
    "norm_ff": "post_attention_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}


def stored_name(name):
    """layers.3.q.weight to model.layers.3.self_attn.q_proj.weight, layers.3.q.a to what PEFT calls it."""
    *layer, module, kind = name.split(".")
    place = ".".join((["model"] + layer if layer else []) + [NAMES[module]])
    return f"{place}.{kind}" if kind in ("weight", "bias") else f"base_model.model.{place}.lora_{kind.upper()}.weight"


def tensors_read(path):
    """All tensors of a safetensors file of float32."""
    if not os.path.exists(path):
        return {}
    data = torch.from_file(path, size=os.path.getsize(path), dtype=torch.uint8)
    size = int.from_bytes(bytes(data[:8].tolist()), "little")
    table = json.loads(bytes(data[8:8 + size].tolist()))
    table.pop("__metadata__", None)
    return {name: data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]].view(torch.float32).view(entry["shape"])
            for name, entry in table.items()}


def weights_read(model, directory):
    stored = tensors_read(directory + "/model.safetensors") | tensors_read(directory + "/adapter_model.safetensors")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(stored[stored_name(name)].view(weight.shape))


def batches(lengths, count, V):
    made = []
    for first in range(0, len(lengths) - count + 1, count):
        T = max(lengths[first:first + count])
        tokens, target, mask = torch.zeros(count, T, dtype=torch.long), torch.zeros(count, T), torch.zeros(count, T, dtype=torch.bool)
        for row, i in enumerate(range(first, first + count)):
            t = torch.arange(lengths[i])
            tokens[row, :len(t)], target[row, :len(t)], mask[row, :len(t)] = (i * 104729 + t * 7919) % V, (i * 31 + t) % 17 / 17.0, True
        made.append((tokens, target, mask))
    return made


def main(shape, lengths, threads, rounds, products, weights, rank=0):
    torch.set_num_threads(int(threads))
    C, L, NH, NKV, F_, V = (2048, 22, 32, 4, 5632, 32000) if shape == "tinyllama" else map(int, shape.split(","))
    if "x" in lengths and lengths.replace("x", "").isdigit():
        N, T = map(int, lengths.split("x"))
        data = batches([T] * N, N, V)
    else:
        data = batches([int(word) for word in open(lengths).read().split()], BATCH, V)
    model = Value(C, L, NH, NKV, F_, V, int(rank))
    weights_read(model, weights)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    losses, took, positions = [], 0.0, 0
    for step in range(int(rounds) + 1):
        tokens, target, mask = data[step % len(data)]
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=products == "bf16"):
            value = model(tokens)
        loss = (0.5 * (value.float() - target) ** 2)[mask].mean()
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adamw.step()
        losses.append(loss.item())
        if step > 0:
            took, positions = took + time.perf_counter() - start, positions + int(mask.sum())
    print(f"{positions / took:.2f}", *(f"{loss:.8g}" for loss in losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
