#!/usr/bin/env python3
"""check_peft.py - whether PEFT reads what 'train --lora -o DIR' wrote as the model that DIR holds merged.

    python tests/parity/check_peft.py DIR          (python with torch, transformers and peft)

Loads DIR/adapter on its base and DIR itself in float32, runs the same random tokens and prints the largest difference of a
logit, and how far the adapter moves the base; exits 1 when the first is above 1e-4 or the second is 0.
"""
import pathlib
import sys

import peft
import torch
import transformers


def load(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def main():
    directory = pathlib.Path(sys.argv[1])
    config = peft.PeftConfig.from_pretrained(directory / "adapter")
    base = load(config.base_model_name_or_path)
    tokens = torch.randint(0, base.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = base(tokens).logits
        adapted = peft.PeftModel.from_pretrained(base, directory / "adapter").eval()(tokens).logits
        merged = load(directory)(tokens).logits
    difference, moved = (adapted - merged).abs().max().item(), (adapted - plain).abs().max().item()
    print("largest difference of a logit", difference, "largest change by the adapter", moved)
    return not (difference <= 1e-4 and moved > 0)


if __name__ == "__main__":
    sys.exit(main())
