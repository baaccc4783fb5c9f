#!/usr/bin/env python3
"""Writes tests/parity/train.json: losses, gradients and trained weights of a tiny Llama by PyTorch and transformers.

Needs python with torch and transformers.  Read by tests/parity/test_train_torch.c.
"""

import json
import os

import torch
from transformers import LlamaConfig, LlamaForCausalLM

STEPS = 5
OPTIMISER = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-8, "weight_decay": 0.1, "clip_norm": 0.5}
DECAYED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")

torch.manual_seed(1)
torch.set_num_threads(1)


def model_make():
    config = LlamaConfig(
        vocab_size=11, hidden_size=12, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
        intermediate_size=10, max_position_embeddings=32, rope_theta=100.0, rms_norm_eps=1e-5, tie_word_embeddings=False,
        attention_bias=False, mlp_bias=False, attn_implementation="eager")
    model = LlamaForCausalLM(config)
    model.v_head = torch.nn.Module()
    model.v_head.summary = torch.nn.Linear(config.hidden_size, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
            if parameter.dim() == 1:
                parameter.add_(1.0)
    return config, model


def examples_make():
    examples = []
    for length in (1, 9, 30, 4):
        examples.append({
            "tokens": torch.randint(0, 11, (length,)).tolist(),
            "target": torch.randn(length).tolist(),
            "mask": [int(t % 3 != 1) for t in range(length)],
        })
    return examples


def loss_of(model, examples, objective):
    losses = []
    for example in examples:
        tokens = torch.tensor([example["tokens"]])
        mask = torch.tensor(example["mask"], dtype=torch.bool)
        hidden = model.model(tokens).last_hidden_state[0]
        if objective == "value":
            value = model.v_head.summary(hidden)[:, 0]
            losses.append((0.5 * (value - torch.tensor(example["target"])) ** 2)[mask])
        else:
            nll = torch.nn.functional.cross_entropy(model.lm_head(hidden[:-1]), tokens[0, 1:], reduction="none")
            losses.append(nll[mask[:-1]])
    return torch.cat(losses).mean()


def numbers(tensor):
    return [float(f"{x:.9g}") for x in tensor.detach().flatten().tolist()]


def witness(config_model, weights, examples, objective):
    _, model = config_model
    model.load_state_dict(weights)
    frozen = "lm_head" if objective == "value" else "v_head"
    named = [(n, p) for n, p in model.named_parameters() if not n.startswith(frozen)]
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, examples, objective)
    loss.backward()
    result = {
        "loss": loss.item(),
        "gradient_norm": torch.sqrt(sum((p.grad.double() ** 2).sum() for _, p in named)).item(),
        "gradients": {n: numbers(p.grad) for n, p in named},
    }
    decayed = [p for n, p in named if any(word in n for word in DECAYED)]
    others = [p for n, p in named if not any(word in n for word in DECAYED)]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIMISER["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
        lr=OPTIMISER["learning_rate"], betas=(OPTIMISER["beta1"], OPTIMISER["beta2"]), eps=OPTIMISER["epsilon"])
    for _ in range(STEPS):
        model.zero_grad(set_to_none=True)
        loss_of(model, examples, objective).backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], OPTIMISER["clip_norm"])
        adamw.step()
    result["loss_after"] = loss_of(model, examples, objective).item()
    result["trained"] = {n: numbers(p) for n, p in named}
    return result


def main():
    config_model = model_make()
    config, model = config_model
    weights = {n: t.clone() for n, t in model.state_dict().items()}
    examples = examples_make()
    fixture = {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "optimiser": OPTIMISER, "steps": STEPS, "examples": examples,
        "weights": {n: numbers(t) for n, t in weights.items()},
    }
    for objective in ("value", "lm"):
        fixture[objective] = witness(config_model, weights, examples, objective)
    keep = ("architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings", "rms_norm_eps",
            "tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act")
    fixture["config"] = {k: fixture["config"][k] for k in keep if k in fixture["config"]}
    fixture["config"]["architectures"] = ["LlamaForCausalLM"]
    fixture["config"]["rope_theta"] = 100.0
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.json")
    with open(path, "w") as file:
        json.dump(fixture, file, separators=(",", ":"))
        file.write("\n")


main()
