"""peer_torch_vas.py - value-augmented sampling in PyTorch, the way the method's reference does it: one candidate after the other.

    python tests/bench/peer_torch_vas.py BASE VALUE THREADS TYPE TOKENS CASE...        (python with torch and safetensors)

BASE, VALUE: llama directories, the second with a value head.  TYPE: float32 or bfloat16.  One sequence of 32 + TOKENS tokens with caches.

    base        the base policy alone
    reference   steered over 20 candidates: each is a pass of the value model over one token, and one more keeps the chosen one;
                every pass computes the value model's logits too, as TRL's AutoModelForCausalLMWithValueHead does
    sequential  the same without these logits
    batched     steered over 20 candidates in one pass of 20 rows that share the cache, and one more; no logits

Prints "CASE TOKENS_PER_SECOND" a line.
"""
import json
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

PROMPT, CANDIDATES, BETA = 32, 20, 1.0


class Llama:
    def __init__(self, path, kind, positions):
        config = json.load(open(f"{path}/config.json"))
        weights = {name: tensor.to(kind) for name, tensor in load_file(f"{path}/model.safetensors").items()}
        self.heads, self.epsilon = config["num_attention_heads"], config["rms_norm_eps"]
        self.size = config["hidden_size"] // self.heads
        self.embedding, self.norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
        self.value = weights.get("v_head.summary.weight"), weights.get("v_head.summary.bias")
        names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
                 "mlp.down_proj", "input_layernorm", "post_attention_layernorm")
        layers = [[weights[f"model.layers.{l}.{name}.weight"] for name in names] for l in range(config["num_hidden_layers"])]
        self.layers = [(torch.cat(l[:3]), l[3], torch.cat(l[4:6]), *l[6:]) for l in layers]  # q, k, v in one product, and gate, up
        self.keys = torch.zeros(len(self.layers), 1, self.heads, positions, self.size, dtype=kind)
        self.values = torch.zeros_like(self.keys)
        turns = torch.outer(torch.arange(positions), config["rope_theta"] ** (-torch.arange(0, self.size, 2) / self.size))
        self.cos, self.sin = (torch.cat([f(turns)] * 2, 1).to(kind) for f in (torch.cos, torch.sin))

    def rotate(self, x, position):
        low, high = x.chunk(2, -1)
        return x * self.cos[position] + torch.cat([-high, low], -1) * self.sin[position]

    def hidden(self, tokens, position):
        """Each of the tokens (B) at this position, behind the cache; the first one's keys and values stay in it."""
        B, C = len(tokens), self.heads * self.size
        x = self.embedding[tokens]
        for l, (qkv, out, gate_up, down, norm, ff_norm) in enumerate(self.layers):
            q, k, v = F.linear(F.rms_norm(x, (C,), norm, self.epsilon), qkv).view(B, 3, self.heads, 1, self.size).unbind(1)
            q, k = self.rotate(q, position), self.rotate(k, position)
            self.keys[l, 0, :, position], self.values[l, 0, :, position] = k[0, :, 0], v[0, :, 0]
            if B == 1:
                keys, values = self.keys[l, :, :, :position + 1], self.values[l, :, :, :position + 1]
            else:
                keys = torch.cat([self.keys[l, :, :, :position].expand(B, -1, -1, -1), k], 2)
                values = torch.cat([self.values[l, :, :, :position].expand(B, -1, -1, -1), v], 2)
            x = x + F.linear(F.scaled_dot_product_attention(q, keys, values).reshape(B, C), out)
            gate, up = F.linear(F.rms_norm(x, (C,), ff_norm, self.epsilon), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, down)
        return F.rms_norm(x, (C,), self.norm, self.epsilon)

    def logits(self, token, position):
        return F.linear(self.hidden([token], position), self.embedding)[0].float()

    def candidate_values(self, tokens, position, with_logits=False):
        hidden = self.hidden(tokens, position)
        if with_logits:
            F.linear(hidden, self.embedding)
        return F.linear(hidden, *self.value)[:, 0].float()


def step(base, value, token, position, case):
    logits = base.logits(token, position)
    if case != "base":
        candidates = torch.topk(logits, CANDIDATES).indices
        if case == "batched":
            values = value.candidate_values(candidates, position + 1)
        else:
            values = torch.cat([value.candidate_values(candidate[None], position + 1, case == "reference") for candidate in candidates])
        logits[candidates] += BETA * (values - values.mean())
    chosen = torch.multinomial(torch.softmax(logits, 0), 1).item()
    if case != "base":
        value.candidate_values([chosen], position + 1, case == "reference")
    return chosen


def main(base_path, value_path, threads, kind, tokens, *cases):
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    positions = PROMPT + int(tokens) + 2
    with torch.inference_mode():
        base, value = (Llama(path, getattr(torch, kind), positions) for path in (base_path, value_path))
        for case in cases:
            token = 1
            for position in range(PROMPT + int(tokens)):
                if position == PROMPT:
                    begun = time.perf_counter()
                token = step(base, value, token, position, "base" if position < PROMPT - 2 else case)
            print(case, f"{int(tokens) / (time.perf_counter() - begun):.2f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
