"""make_windows.py - texts longer than a page of the KV cache through models with sliding windows, as transformers computes them.

    python tests/parity/make_windows.py          (python with torch, transformers and gguf)

Writes tests/parity/windows/NAME/ for each model below, with the files that make_families.py writes.
"""
import pathlib
import shutil

import torch
import transformers

from make_families import SMALL, expect, randomise

T = 70
HERE = pathlib.Path(__file__).resolve().parent / "windows"
LONG = SMALL | dict(max_position_embeddings=80)
MODELS = {
    # a page and some, in every other layer, with caps and norms of outputs
    "gemma2_19": ("Gemma2", LONG | dict(num_hidden_layers=3, head_dim=6, sliding_window=19, query_pre_attn_scalar=5,
                                        attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    # a page to the position
    "mistral_16": ("Mistral", LONG | dict(sliding_window=16)),
    # two pages and one position, from the second layer on
    "qwen2_33": ("Qwen2", LONG | dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=33, max_window_layers=1)),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, (name, (family, options)) in enumerate(MODELS.items()):
        directory = HERE / name
        shutil.rmtree(directory, ignore_errors=True)
        generator = torch.Generator().manual_seed(seed)
        model = getattr(transformers, family + "ForCausalLM")(getattr(transformers, family + "Config")(**options))
        randomise(model, generator)
        model.tie_weights()
        model.save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
        expect(model.eval(), directory, generator, T)
