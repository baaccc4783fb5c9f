#!/usr/bin/env python3
"""Writes tests/parity/peft/NAME/: adapters as PEFT saves them, and what the adapted model computes.

    adapter_config.json, adapter_model.safetensors   of a model in tests/parity/train
    tokens.json                                      (12) token ids
    logits.f32                                       (12, V) float32, little-endian

Needs python with torch, transformers and peft; run make_train.py first.  Read by tests/unit/test_adapter.c.
"""

import json
import pathlib
import shutil

import peft
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
POSITIONS = 12

# name: base, LoraConfig
ADAPTERS = {
    "llama": ("llama", dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"])),
    "llama_stabilised": ("llama", dict(r=2, lora_alpha=3, use_rslora=True, target_modules="all-linear")),
    "llama_head": ("llama", dict(r=2, lora_alpha=4, target_modules=["k_proj"], modules_to_save=["lm_head"])),
    "gpt2": ("gpt2", dict(r=2, lora_alpha=6, fan_in_fan_out=True, target_modules=["c_attn", "mlp.c_proj"])),
    "phi3": ("phi3", dict(r=2, lora_alpha=2, rank_pattern={"qkv_proj": 4}, alpha_pattern={"qkv_proj": 10},
                          target_modules=["qkv_proj", "gate_up_proj", "o_proj"])),
    "gemma2": ("gemma2", dict(r=2, lora_alpha=2, target_modules=["q_proj", "gate_proj"])),
}


def main():
    torch.set_num_threads(1)
    for name, (base, options) in ADAPTERS.items():
        torch.manual_seed(3)
        directory = HERE / "peft" / name
        shutil.rmtree(directory, ignore_errors=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(HERE / "train" / base, dtype=torch.float32, attn_implementation="eager")
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0.0, 0.3)
        model.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)
        config = json.loads((directory / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = f"../../train/{base}"
        (directory / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
        tokens = torch.randint(0, 11, (1, POSITIONS))
        with torch.no_grad():
            logits = model(tokens, use_cache=False).logits[0].float()
        (directory / "tokens.json").write_text(json.dumps(tokens[0].tolist()) + "\n")
        (directory / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
        print("wrote", directory.name)


main()
