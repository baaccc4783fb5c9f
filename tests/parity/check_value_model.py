#!/usr/bin/env python3
"""check_value_model.py - whether a value model that 'train' wrote gives the same values in transformers.

    value-target --lambda 0 -m DIR <scored | tap >targets.jsonl
    python tests/parity/check_value_model.py DIR targets.jsonl          (python with torch, transformers and safetensors)

The ten lines of values() are all that a user needs.  Prints the largest difference from the values in targets.jsonl; exits 1
when it is above 1e-4.
"""
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def values(directory, texts):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    weights = load_file(f"{directory}/model.safetensors")
    head = torch.nn.Linear(model.config.hidden_size, 1)
    head.weight.data = weights["v_head.summary.weight"].float()
    head.bias.data = weights["v_head.summary.bias"].float()
    with torch.no_grad():
        for tokens in texts:
            yield head(model.base_model(torch.tensor([tokens])).last_hidden_state)[0, :, 0].tolist()


def main():
    frames = map(json.loads, open(sys.argv[2]))
    targets = [frame for frame in frames if frame["type"] == "target"][:50]
    difference = 0.0
    for target, value in zip(targets, values(sys.argv[1], [t["prompt_tokens"] + t["response_tokens"] for t in targets])):
        ours, first = target["values"], len(target["prompt_tokens"]) - 1
        difference = max(difference, max(abs(a - b) for a, b in zip(ours, value[first:], strict=True)))
    print("texts", len(targets), "largest difference of a value", difference)
    return not (targets and difference <= 1e-4)


if __name__ == "__main__":
    sys.exit(main())
