#!/usr/bin/env python3
"""Writes tests/parity/train/NAME/: losses, gradients and trained weights of tiny models by PyTorch and transformers.

    config.json, model.safetensors    as transformers saves the model, with a value head
    OBJECTIVE_gradients.safetensors   of the first loss, by the names of the weights; objective value or lm
    OBJECTIVE_trained.safetensors     weights after five clipped steps of AdamW
    witness.json                      examples, optimiser, losses

Needs python with torch and transformers.  Read by tests/parity/test_train_torch.c.
"""

import json
import os

import torch
import transformers
from safetensors.torch import save_file

STEPS = 5
# epsilon is large against the rounding of gradients that are 0, which AdamW would blow up
OPTIMISER = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-5, "weight_decay": 0.1, "clip_norm": 0.5}
UNDECAYED = ("embed_tokens", "wte", "wpe", "v_head")
VOCABULARY = 11

COMMON = dict(vocab_size=VOCABULARY, hidden_size=12, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              intermediate_size=10, max_position_embeddings=32, rms_norm_eps=1e-5, attn_implementation="eager",
              bos_token_id=None, eos_token_id=None, pad_token_id=None)
ROPE = {"rope_type": "default", "rope_theta": 100.0}
MODELS = {
    "llama": (transformers.LlamaConfig, dict(COMMON, head_dim=4, rope_parameters=ROPE, tie_word_embeddings=False)),
    "mistral": (transformers.MistralConfig, dict(COMMON, head_dim=4, rope_parameters=ROPE, sliding_window=7, tie_word_embeddings=False)),
    "qwen2": (transformers.Qwen2Config, dict(COMMON, hidden_size=16, rope_parameters=ROPE, tie_word_embeddings=True)),
    "qwen3": (transformers.Qwen3Config, dict(COMMON, head_dim=6, rope_parameters=ROPE, tie_word_embeddings=False)),
    "gemma2": (transformers.Gemma2Config, dict(COMMON, head_dim=6, rope_parameters=ROPE, query_pre_attn_scalar=5, sliding_window=6,
                                               attn_logit_softcapping=2.0, final_logit_softcapping=1.5)),
    "phi3": (transformers.Phi3Config, dict(COMMON, hidden_size=16, rope_parameters=ROPE, tie_word_embeddings=False)),
    "gpt2": (transformers.GPT2Config, dict(vocab_size=VOCABULARY, n_embd=12, n_layer=2, n_head=3, n_positions=32, n_inner=10,
                                           resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
                                           bos_token_id=None, eos_token_id=None)),
}


def model_make(name):
    config_class, sizes = MODELS[name]
    config = config_class(**sizes)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.v_head = torch.nn.Module()
    model.v_head.summary = torch.nn.Linear(config.hidden_size, 1)
    less_one = name == "gemma2"  # its norms multiply by weight + 1
    with torch.no_grad():
        for weight, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.3)
            if parameter.dim() == 1 and not weight.endswith("bias") and not less_one:
                parameter.add_(1.0)
    return model.float().eval()


def examples_make():
    examples = []
    for length in (1, 9, 30, 4):
        examples.append({
            "tokens": torch.randint(0, VOCABULARY, (length,)).tolist(),
            "target": [round(x, 6) for x in torch.randn(length).tolist()],
            "mask": [int(t % 3 != 1) for t in range(length)],
        })
    return examples


def loss_of(model, examples, objective):
    losses = []
    for example in examples:
        tokens = torch.tensor([example["tokens"]])
        mask = torch.tensor(example["mask"], dtype=torch.bool)
        if objective == "value":
            hidden = model.base_model(tokens, use_cache=False).last_hidden_state[0]
            value = model.v_head.summary(hidden)[:, 0]
            losses.append((0.5 * (value - torch.tensor(example["target"])) ** 2)[mask])
        else:
            logits = model(tokens, use_cache=False).logits[0]
            nll = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")
            losses.append(nll[mask[:-1]])
    return torch.cat(losses).mean()


def save(directory, name, tensors):
    save_file({n: t.detach().clone().contiguous() for n, t in tensors.items()}, os.path.join(directory, name), {"format": "pt"})


def witness(model, weights, examples, objective, directory):
    model.load_state_dict(weights)
    frozen = "lm_head" if objective == "value" else "v_head"
    named = [(n, p) for n, p in model.named_parameters() if not n.startswith(frozen)]
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, examples, objective)
    loss.backward()
    save(directory, objective + "_gradients.safetensors", {n: p.grad for n, p in named})
    result = {"loss": loss.item(), "gradient_norm": torch.sqrt(sum((p.grad.double() ** 2).sum() for _, p in named)).item()}
    decays = lambda n, p: p.dim() == 2 and not any(word in n for word in UNDECAYED)
    adamw = torch.optim.AdamW(
        [{"params": [p for n, p in named if decays(n, p)], "weight_decay": OPTIMISER["weight_decay"]},
         {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0}],
        lr=OPTIMISER["learning_rate"], betas=(OPTIMISER["beta1"], OPTIMISER["beta2"]), eps=OPTIMISER["epsilon"])
    for _ in range(STEPS):
        model.zero_grad(set_to_none=True)
        loss_of(model, examples, objective).backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], OPTIMISER["clip_norm"])
        adamw.step()
    result["loss_after"] = loss_of(model, examples, objective).item()
    save(directory, objective + "_trained.safetensors", dict(named))
    return result


def main():
    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    for name in MODELS:
        torch.manual_seed(1)
        model = model_make(name)
        directory = os.path.join(here, "train", name)
        os.makedirs(directory, exist_ok=True)
        weights = {n: t.clone() for n, t in model.state_dict().items()}
        save(directory, "model.safetensors", dict(model.named_parameters()))
        with open(os.path.join(directory, "config.json"), "w") as file:
            model.config.architectures = [type(model).__name__]
            file.write(model.config.to_json_string())
        examples = examples_make()
        fixture = {"optimiser": OPTIMISER, "steps": STEPS, "examples": examples}
        for objective in ("value", "lm"):
            fixture[objective] = witness(model, weights, examples, objective, directory)
        with open(os.path.join(directory, "witness.json"), "w") as file:
            json.dump(fixture, file, separators=(",", ":"))
            file.write("\n")


main()
