"""check_export.py - whether transformers reads an exported model as the model it came from.

    python tests/parity/check_export.py ORIGINAL EXPORTED          (python with torch and transformers)

Both are Hugging Face directories.  Loads them in float32, runs the same random tokens and prints the largest difference
of a logit or score; exits 1 when it is above 1e-4 or keys are missing.  A value head shows up as unexpected keys, which is
right.
"""
import json
import pathlib
import sys

import torch
import transformers


def load(directory):
    name = json.loads((pathlib.Path(directory) / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, name).from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                                output_loading_info=True)
    print(directory, "missing", sorted(report["missing_keys"]), "unexpected", sorted(report["unexpected_keys"]))
    return model, bool(report["missing_keys"] or report["mismatched_keys"])


def main():
    original, _ = load(sys.argv[1])
    exported, incomplete = load(sys.argv[2])
    tokens = torch.randint(0, original.config.vocab_size, (2, 1, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = max((original(row).logits - exported(row).logits).abs().max().item() for row in tokens)
    print("largest difference of a logit", difference)
    return incomplete or not difference <= 1e-4


if __name__ == "__main__":
    sys.exit(main())
