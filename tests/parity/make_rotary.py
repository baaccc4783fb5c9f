"""make_rotary.py - cosines and sines of rotary embeddings as transformers computes them, one set for each kind of stretching.

    python tests/parity/make_rotary.py          (python with torch and transformers)

Writes tests/parity/rotary.json: for each case its kind, the parameters of struct rope_scaling, theta, head size, and for each
position (as many cosines and sines as a head has pairs).
"""
import json
import pathlib

import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

POSITIONS = [0, 1, 2, 7, 63, 500, 1023]
CONTEXT = 1024
SHORT = [1.0 + 0.1 * i for i in range(8)]
LONG = [1.5 + 1.3 * i for i in range(8)]

CASES = [
    ("default", 10000.0, 16, {}, {}),
    ("default", 500000.0, 24, {}, {}),
    ("linear", 10000.0, 16, dict(factor=3.7), dict(factor=3.7)),
    ("dynamic", 10000.0, 16, dict(factor=4.0), dict(factor=4.0)),
    ("yarn", 10000.0, 16, dict(factor=4.0, original_max_position_embeddings=256),
     dict(factor=4.0, original_positions=256, beta_fast=32, beta_slow=1)),
    ("yarn", 1000000.0, 32, dict(factor=3.3, original_max_position_embeddings=310, beta_fast=16, beta_slow=2, attention_factor=0.75),
     dict(factor=3.3, original_positions=310, beta_fast=16, beta_slow=2)),
    ("longrope", 10000.0, 16, dict(short_factor=SHORT, long_factor=LONG, original_max_position_embeddings=256),
     dict(original_positions=256, factors=LONG)),
    ("llama3", 500000.0, 32, dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128),
     dict(factor=8.0, low_frequency=1.0, high_frequency=4.0, original_positions=128)),
]


def make(kind, theta, head_size, parameters, fields):
    Config, Embedding = (Phi3Config, Phi3RotaryEmbedding) if kind == "longrope" else (LlamaConfig, LlamaRotaryEmbedding)
    config = Config(hidden_size=4 * head_size, num_attention_heads=4, max_position_embeddings=CONTEXT, vocab_size=64, pad_token_id=0,
                    **(dict(original_max_position_embeddings=256) if kind == "longrope" else {}),
                    rope_parameters=dict(rope_type=kind, rope_theta=theta, **parameters))
    embedding = Embedding(config)
    cosine, sine = embedding(torch.zeros(1, 1, dtype=torch.float32), torch.tensor([POSITIONS]))
    half = head_size // 2
    return dict(kind=kind, theta=theta, head_size=head_size, attention_factor=embedding.attention_scaling, **fields,
                cosine=cosine[0, :, :half].flatten().tolist(), sine=sine[0, :, :half].flatten().tolist())


if __name__ == "__main__":
    path = pathlib.Path(__file__).resolve().parent / "rotary.json"
    path.write_text(json.dumps(dict(positions=POSITIONS, cases=[make(*case) for case in CASES]), indent=0) + "\n")
