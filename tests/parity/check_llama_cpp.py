"""GGUF files that `model export` writes, in llama.cpp, against transformers: logits of every family and type.

    python tests/parity/check_llama_cpp.py ../shared/data/tokenizers/gpt2

needs torch, transformers and llama-cpp-python; BIN names the folder of the programs (bin).  Models have random weights.
Prints one line a model and fails when some logit is off by more than the type's rounding.
"""
import os
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
import torch
import transformers as tf

BIN = os.environ.get("BIN", "bin")
V, C, F, L, NH, NKV, T = 50257, 64, 96, 2, 4, 2, 24
SHAPE = dict(vocab_size=V, hidden_size=C, intermediate_size=F, num_hidden_layers=L, num_attention_heads=NH,
             num_key_value_heads=NKV, max_position_embeddings=128)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32, rope_theta=10000.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, rope_theta=10000.0)
MODELS = {
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig(**SHAPE)),
    "llama tied, Llama 3's rope": (tf.LlamaForCausalLM, tf.LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "llama, YaRN's rope": (tf.LlamaForCausalLM, tf.LlamaConfig(**SHAPE, rope_parameters=YARN)),
    "llama, YaRN without scaling": (tf.LlamaForCausalLM, tf.LlamaConfig(**SHAPE, rope_parameters=dict(YARN, attention_factor=1.0))),
    "mistral": (tf.MistralForCausalLM, tf.MistralConfig(**SHAPE, sliding_window=64)),
    "qwen2": (tf.Qwen2ForCausalLM, tf.Qwen2Config(**SHAPE)),
    "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config(**SHAPE, head_dim=32)),
    "gemma2": (tf.Gemma2ForCausalLM, tf.Gemma2Config(**SHAPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=16)),
    "phi3": (tf.Phi3ForCausalLM, tf.Phi3Config(**SHAPE, pad_token_id=0)),
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config(vocab_size=V, n_embd=C, n_head=NH, n_layer=L, n_positions=128)),
}
LIMITS = {"f32": 2e-3, "f16": 2e-2, "q8_0": 8e-2}  # of the largest logit; llama.cpp itself computes with f16 keys and values


def plain_weights():
    """Products over the weights as the file has them: llama.cpp's repacked ones end in illegal instructions on some machines with AMX."""
    params = default_params()
    params.use_extra_bufts = False
    return params


default_params = llama_cpp.llama_cpp.llama_model_default_params
llama_cpp.llama_cpp.llama_model_default_params = plain_weights


def llama_logits(path, tokens):
    # Matrices of F16 and Q8_0 take their inputs rounded there: the limits allow for it.
    model = llama_cpp.Llama(path, n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)])


def main(tokenizer):
    failed = False
    torch.manual_seed(1)
    for name, (kind, config) in MODELS.items():
        model = kind(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.15)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        tokens = torch.randint(0, V, (T,)).tolist()
        with torch.no_grad():
            wanted = model(torch.tensor([tokens])).logits[0].numpy()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            for kind_name, limit in LIMITS.items():
                path = f"{folder}/model-{kind_name}.gguf"
                subprocess.run([f"{BIN}/model", "export", "-q", "-m", folder, "--tokenizer", tokenizer, "-o", path, "--type", kind_name], check=True)
                off = np.abs(llama_logits(path, tokens) - wanted).max() / np.abs(wanted).max()
                failed |= not off < limit
                print(f"{name:28} {kind_name:5} largest difference {off:.1e} of the largest logit, limit {limit:.0e}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
