"""make_llama.py - tiny random Llama models and what transformers computes with them.

    python tests/parity/make_llama.py          (python with torch and transformers)

Writes tests/parity/llama/NAME/ for each model below:

    config.json, *.safetensors   as transformers saves them
    tokens.json                  (2, 20) token ids
    logits.f32                   (2, 20, V) float32, little-endian: logits of every position
    hidden.f32                   (2, 20, C) the same positions after the final norm

Everything is computed in float32 from the weights as stored, so rounding to F16 or BF16 is no part of the difference.
"""
import json
import pathlib
import shutil

import torch
import transformers

POSITIONS = 20
SEQUENCES = 2
HERE = pathlib.Path(__file__).resolve().parent / "llama"

MODELS = {
    # grouped-query attention, head size C / heads, its own lm_head
    "gqa_f32": (dict(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                     intermediate_size=64, rms_norm_eps=1e-5, tie_word_embeddings=False), torch.float32, None),
    # one key/value head, tied embeddings, sizes that are no powers of two
    "tied_bf16": (dict(vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=1,
                       intermediate_size=100, rms_norm_eps=1e-6, tie_word_embeddings=True), torch.bfloat16, None),
    # head size apart from C / heads, another rotary base, two shards
    "sharded_f16": (dict(vocab_size=73, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                         head_dim=16, intermediate_size=56, rms_norm_eps=1e-5, tie_word_embeddings=False,
                         rope_parameters=dict(rope_type="default", rope_theta=500000.0)), torch.float16, "50KB"),
}


def randomise(model, generator):
    """Weights large enough that attention is far from uniform and every norm gain matters."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            weight.data = 1 + 0.2 * noise
        elif "embed_tokens" in name:
            weight.data = 0.8 * noise
        else:
            weight.data = 1.5 * noise / weight.shape[1] ** 0.5


def make(name, seed):
    options, dtype, shard = MODELS[name]
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    generator = torch.Generator().manual_seed(seed)

    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(max_position_embeddings=64, **options))
    randomise(model, generator)
    if options["tie_word_embeddings"]:
        model.tie_weights()
    model.to(dtype).save_pretrained(directory, **(dict(max_shard_size=shard) if shard else {}))
    (directory / "generation_config.json").unlink(missing_ok=True)

    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    tokens = torch.randint(0, options["vocab_size"], (SEQUENCES, POSITIONS), generator=generator)
    with torch.no_grad():
        out = model(tokens, output_hidden_states=True)
    hidden = out.hidden_states[-1]
    assert torch.allclose(model.lm_head(hidden), out.logits, atol=1e-4)
    (directory / "tokens.json").write_text(json.dumps(tokens.tolist()) + "\n")
    out.logits.numpy().astype("<f4").tofile(directory / "logits.f32")
    hidden.numpy().astype("<f4").tofile(directory / "hidden.f32")
    print(name, "logits", out.logits.std().item(), "hidden", hidden.std().item())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, name in enumerate(MODELS):
        make(name, seed)
