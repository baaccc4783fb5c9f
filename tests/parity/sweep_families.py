"""sweep_families.py - random models of every family, as many as one wants.

    python tests/parity/sweep_families.py DIRECTORY [COUNT] [SEED]          (python with torch, transformers and gguf)
    .../tests/parity/test_families DIRECTORY

Makes DIRECTORY and writes DIRECTORY/NAME/ as make_families.py does, of configs drawn at random: shapes, rotary scalings, windows, biases, caps,
activations, heads, both spellings of config.json.
"""
import pathlib
import random
import sys

import torch
import transformers

import make_families

NO_TOKENS = dict(pad_token_id=None, bos_token_id=None, eos_token_id=None)


def factors(draw, head_size):
    return dict(short_factor=[draw.uniform(1, 3) for _ in range(head_size // 2)],
                long_factor=[draw.uniform(1, 9) for _ in range(head_size // 2)])


def rope(draw, head_size, kinds):
    """rope_parameters of one of the kinds."""
    kind = draw.choice(kinds)
    options = dict(rope_type=kind, rope_theta=draw.choice([20.0, 100.0, 1e4, 1e6]))
    if kind in ("linear", "dynamic", "yarn", "llama3"):
        options["factor"] = draw.choice([1.5, 2.0, 4.0, 8.0])
    if kind in ("yarn", "llama3"):
        options["original_max_position_embeddings"] = draw.choice([8, 16, 40])
    if kind == "llama3":
        options |= dict(low_freq_factor=draw.choice([0.5, 1.0]), high_freq_factor=draw.choice([2.0, 4.0]))
    if kind == "yarn":
        options |= draw.choice([{}, dict(beta_fast=4.0, beta_slow=0.5), dict(mscale=1.5, mscale_all_dim=0.7),
                                dict(attention_factor=1.1)])
    if kind == "longrope":
        options |= factors(draw, head_size) | dict(original_max_position_embeddings=40)
    return options


def gpt2(draw, heads, head_size):
    return dict(n_embd=heads * head_size, n_layer=draw.randint(1, 4), n_head=heads, n_positions=draw.choice([40, 64]),
                n_inner=draw.choice([None, 7, 33]), layer_norm_epsilon=draw.choice([1e-5, 1e-3]),
                activation_function=draw.choice(["gelu_new", "gelu", "silu", "gelu_pytorch_tanh"]),
                attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)


def others(draw, family, kv_heads, heads, head_size):
    plain = family in ("Phi3", "Qwen2")  # no head_dim of their own
    options = dict(
        hidden_size=heads * (head_size if plain else draw.choice([2, 3, 5, 9])), num_hidden_layers=draw.randint(1, 4),
        num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=draw.randint(3, 50),
        max_position_embeddings=draw.choice([40, 64, 100]), rms_norm_eps=draw.choice([1e-6, 1e-5, 1e-3]))
    kinds = ["default", "longrope"] if family == "Phi3" else ["default", "linear", "dynamic", "yarn", "llama3", "longrope"]
    options["rope_parameters"] = rope(draw, head_size, kinds)
    if not plain:
        options["head_dim"] = head_size
    if family != "Gemma2":
        options["hidden_act"] = draw.choice(["silu", "silu", "gelu", "gelu_pytorch_tanh"])
    return options | {
        "Llama": lambda: dict(attention_bias=draw.random() < 0.5, mlp_bias=draw.random() < 0.5),
        "Mistral": lambda: dict(sliding_window=draw.choice([None, 1, 2, 9, 64])),
        "Qwen2": lambda: window(draw),
        "Qwen3": lambda: window(draw) | dict(attention_bias=draw.random() < 0.5),
        "Gemma2": lambda: dict(
            query_pre_attn_scalar=draw.randint(1, 30), sliding_window=draw.choice([1, 5, 20]),
            attn_logit_softcapping=draw.choice([None, 2.0, 30.0]), final_logit_softcapping=draw.choice([None, 3.0]),
            attention_bias=draw.random() < 0.3, hidden_activation=draw.choice(["gelu_pytorch_tanh", "silu"])),
        "Phi3": lambda: dict(original_max_position_embeddings=40, sliding_window=draw.choice([None, 1, 7, 33])),
    }[family]()


def window(draw):
    return dict(use_sliding_window=draw.random() < 0.6, sliding_window=draw.choice([1, 3, 8]),
                max_window_layers=draw.randint(0, 4))


def draw_model(draw):
    """A row of make_families.MODELS."""
    family = draw.choice(["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Phi3", "GPT2"])
    kv_heads = draw.choice([1, 2, 3])
    heads, head_size = kv_heads * draw.choice([1, 2, 3]), draw.choice([4, 6, 10, 16, 18])
    options = gpt2(draw, heads, head_size) if family == "GPT2" else others(draw, family, kv_heads, heads, head_size)
    options |= dict(vocab_size=draw.randint(5, 70), tie_word_embeddings=draw.random() < 0.5) | NO_TOKENS
    spelling = {"v4"} if family != "GPT2" and draw.random() < 0.4 else set()
    if draw.random() < 0.25:
        return family, (family + "ForSequenceClassification", options | dict(num_labels=draw.randint(1, 4)), spelling)
    return family, ("GPT2LMHeadModel" if family == "GPT2" else family + "ForCausalLM", options, spelling)


def main():
    make_families.HERE = pathlib.Path(sys.argv[1])
    count, seed = (int(text) for text in (sys.argv[2:] + ["40", "0"][len(sys.argv) - 2:]))
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    draw = random.Random(seed)
    make_families.MODELS = {f"{i:03d}_{family}": row for i, (family, row) in ((i, draw_model(draw)) for i in range(count))}
    make_families.HERE.mkdir()
    make_families.T = 30
    for i, name in enumerate(make_families.MODELS):
        make_families.make(name, i)


if __name__ == "__main__":
    main()
