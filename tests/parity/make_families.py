"""make_families.py - tiny random models of every family of decoders, and what transformers computes with them.

    python tests/parity/make_families.py          (python with torch, transformers and gguf)

Writes tests/parity/families/NAME/ for each model below:

    config.json, model.safetensors   as transformers saves them (some config.json in transformers 4's spelling)
    model.gguf                       the same weights, for some
    tokens.json                      (B, T) token ids
    hidden.f32                       (B, T, C) float32, little-endian, after the final norm
    logits.f32 or scores.f32         (B, T, V) of every position; (B, labels) of the last

and tests/parity/families_gguf/NAME/, quantised GGUF files alone, whose numbers come from the weights dequantised.

Everything is computed in float32 from the weights as stored, so rounding them is no part of the difference.
"""
import json
import pathlib
import shutil

import gguf
import numpy
import torch
import transformers

B, T = 2, 14
HERE = pathlib.Path(__file__).resolve().parent / "families"
HERE_GGUF = HERE.with_name("families_gguf")
SMALL = dict(vocab_size=23, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
             intermediate_size=20, max_position_embeddings=32, pad_token_id=None, bos_token_id=None, eos_token_id=None)
GPT2 = dict(vocab_size=23, n_embd=12, n_layer=2, n_head=3, n_positions=32, pad_token_id=None, bos_token_id=None,
            eos_token_id=None, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)
SHORT, LONG = [1.0, 1.25, 3.5], [2.0, 6.0, 9.5]

# name: class, options, and what is special: "v4" spelling of config.json, "gguf" twin, "bare" names without a prefix
MODELS = {
    "llama_llama3": ("LlamaForCausalLM", SMALL | dict(
        head_dim=8, attention_bias=True, mlp_bias=True, rope_parameters=dict(
            rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=24)), {"gguf"}),
    "llama_yarn": ("LlamaForCausalLM", SMALL | dict(
        num_key_value_heads=3, tie_word_embeddings=True, head_dim=10, rope_parameters=dict(
            rope_type="yarn", rope_theta=50.0, factor=4.0, original_max_position_embeddings=8, beta_fast=2.0,
            beta_slow=0.25)), {"v4"}),
    "llama_linear": ("LlamaForCausalLM", SMALL | dict(rope_parameters=dict(
        rope_type="linear", rope_theta=1000.0, factor=2.5)), {"v4"}),
    "llama_scores": ("LlamaForSequenceClassification", SMALL | dict(num_labels=1, rope_parameters=dict(
        rope_type="dynamic", rope_theta=100.0, factor=2.0)), {}),
    "mistral_window": ("MistralForCausalLM", SMALL | dict(sliding_window=5, rms_norm_eps=1e-5), {"v4"}),
    "mistral_plain": ("MistralForCausalLM", SMALL | dict(
        sliding_window=None, tie_word_embeddings=True, head_dim=6, num_attention_heads=4, num_key_value_heads=2), {"gguf"}),
    "mistral_scores": ("MistralForSequenceClassification", SMALL | dict(sliding_window=7, num_labels=3), {}),
    "qwen2_untied": ("Qwen2ForCausalLM", SMALL | dict(rope_parameters=dict(rope_type="default", rope_theta=1e6)), {"v4", "gguf"}),
    "qwen2_window": ("Qwen2ForCausalLM", SMALL | dict(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=4, max_window_layers=1, tie_word_embeddings=True), {}),
    "qwen2_scores": ("Qwen2ForSequenceClassification", SMALL | dict(num_key_value_heads=3), {}),
    "qwen3_norms": ("Qwen3ForCausalLM", SMALL | dict(head_dim=8, tie_word_embeddings=True), {"gguf"}),
    "qwen3_layers": ("Qwen3ForCausalLM", SMALL | dict(
        head_dim=6, num_key_value_heads=3, num_hidden_layers=3, attention_bias=True, use_sliding_window=True, sliding_window=3,
        layer_types=["full_attention", "sliding_attention", "full_attention"]), {}),
    "qwen3_scores": ("Qwen3ForSequenceClassification", SMALL | dict(head_dim=4, num_labels=1), {"v4"}),
    "gemma2_capped": ("Gemma2ForCausalLM", SMALL | dict(
        num_hidden_layers=3, head_dim=6, query_pre_attn_scalar=6, sliding_window=4, attn_logit_softcapping=3.0,
        final_logit_softcapping=4.0), {"gguf"}),
    "gemma2_uncapped": ("Gemma2ForCausalLM", SMALL | dict(
        head_dim=4, query_pre_attn_scalar=20, sliding_window=5, attn_logit_softcapping=None, final_logit_softcapping=None,
        attention_bias=True, num_key_value_heads=3, tie_word_embeddings=False), {"v4"}),
    "gemma2_scores": ("Gemma2ForSequenceClassification", SMALL | dict(
        head_dim=8, query_pre_attn_scalar=8, sliding_window=32, num_labels=2, attn_logit_softcapping=5.0), {}),
    "phi3_window": ("Phi3ForCausalLM", SMALL | dict(sliding_window=6, num_attention_heads=2), {"v4"}),
    "phi3_longrope": ("Phi3ForCausalLM", SMALL | dict(
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, original_max_position_embeddings=16,
        rope_parameters=dict(rope_type="longrope", rope_theta=100.0, short_factor=SHORT, long_factor=LONG)), {"v4", "gguf"}),
    "phi3_scores": ("Phi3ForSequenceClassification", SMALL | dict(num_attention_heads=2, num_labels=2, tie_word_embeddings=True), {}),
    "gpt2_tied": ("GPT2LMHeadModel", GPT2, {"gguf"}),
    "gpt2_bare": ("GPT2LMHeadModel", GPT2 | dict(n_head=2, layer_norm_epsilon=1e-3), {"bare"}),
    "gpt2_untied": ("GPT2LMHeadModel", GPT2 | dict(
        n_inner=17, n_head=4, activation_function="gelu", tie_word_embeddings=False), {}),
    "gpt2_scores": ("GPT2ForSequenceClassification", GPT2 | dict(num_labels=2), {}),
}


def randomise(model, generator):
    """Weights large enough that attention is far from uniform and every norm gain and bias matters."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            weight.data = 0.3 * noise
        elif weight.dim() == 1:
            weight.data = (0 if model.config.model_type == "gemma2" else 1) + 0.2 * noise
        elif "embed_tokens" in name or ".wte" in name or ".wpe" in name:
            weight.data = 0.8 * noise
        else:
            inputs = weight.shape[0 if ".c_" in name else 1]  # GPT-2's Conv1D is transposed
            weight.data = 1.5 * noise / inputs ** 0.5


def spell_v4(directory):
    """rope_theta and rope_scaling at the top level."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope.pop("partial_rotary_factor", None)
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type" if kind == "longrope" else "rope_type": kind} | rope
    if kind == "longrope":
        rope.pop("original_max_position_embeddings", None)
        config["rope_scaling"].pop("original_max_position_embeddings", None)
    config["torch_dtype"] = config.pop("dtype", "float16")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def spell_bare(directory):
    """The names of the first GPT-2 files: no prefix, and the causal mask stored as a buffer."""
    from safetensors.torch import load_file, save_file
    path = directory / "model.safetensors"
    weights = {name.removeprefix("transformer."): weight for name, weight in load_file(path).items()}
    for layer in range(2):
        weights[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 4, 4).tril()
        weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, path, metadata={"format": "pt"})


def expect(model, directory, generator, length=None):
    tokens = torch.randint(0, model.config.vocab_size, (B, length or T), generator=generator)
    with torch.no_grad():
        hidden = model.base_model(tokens).last_hidden_state
        out = torch.cat([model(row[None]).logits for row in tokens])  # a classifier without padding takes one text
    (directory / "tokens.json").write_text(json.dumps(tokens.tolist()) + "\n")
    hidden.numpy().astype("<f4").tofile(directory / "hidden.f32")
    out.numpy().astype("<f4").tofile(directory / ("logits.f32" if out.dim() == 3 else "scores.f32"))
    print(directory.name, "hidden", hidden.std().item(), "out", out.std().item())


# ---- GGUF ----

def permute(weight, head_count):
    """The two halves of a head's rows as pairs."""
    shape = weight.shape
    return weight.reshape(head_count, 2, shape[0] // head_count // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def gguf_tensors(model):
    """Name and float32 array of every tensor as llama.cpp's converter writes it."""
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[{"mistral": "llama"}.get(config.model_type, config.model_type).upper()],
                                     config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weight.float().numpy()
        if config.model_type == "gpt2" and ".c_" in name and name.endswith("weight"):
            array = array.T
        if config.model_type in ("llama", "mistral"):
            if ".q_proj." in name:
                array = permute(array, config.num_attention_heads)
            elif ".k_proj." in name:
                array = permute(array, config.num_key_value_heads)
        if config.model_type == "gemma2" and name.endswith("norm.weight"):
            array = array + numpy.float32(1)
        yield names.get_name(name, try_suffixes=(".weight", ".bias")), array


def gguf_writer(model, path):
    config = model.config
    writer = gguf.GGUFWriter(path, {"mistral": "llama"}.get(config.model_type, config.model_type))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return writer
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)
    if rope["rope_type"] == "longrope":
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        ratio = config.max_position_embeddings / config.original_max_position_embeddings
        writer.add_rope_scaling_attn_factors((1 + numpy.log(ratio) / numpy.log(config.original_max_position_embeddings)) ** 0.5)
        writer.add_tensor("rope_factors_short.weight", numpy.array(rope["short_factor"], dtype=numpy.float32))
        writer.add_tensor("rope_factors_long.weight", numpy.array(rope["long_factor"], dtype=numpy.float32))
    if rope["rope_type"] == "llama3":  # as factors of the frequencies
        frequency = rope["rope_theta"] ** -(numpy.arange(0, head_size, 2) / head_size)
        wavelength, context = 2 * numpy.pi / frequency, rope["original_max_position_embeddings"]
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        smooth = numpy.clip((context / wavelength - low) / (high - low), 0, 1)
        writer.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / factor + smooth)).astype(numpy.float32))
    return writer


def gguf_write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_gguf_twin(model, directory):
    writer = gguf_writer(model, directory / "model.gguf")
    for name, array in gguf_tensors(model):
        writer.add_tensor(name, numpy.ascontiguousarray(array.astype(numpy.float32 if array.ndim == 1 else numpy.float16)))
    gguf_write(writer)


Q = gguf.GGMLQuantizationType
# name: class, options, type of each kind of matrix by the end of its name
QUANTISED = {
    "llama": ("LlamaForCausalLM", SMALL | dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
                                                     intermediate_size=32),
                    dict(token_embd=Q.Q8_0, attn_q=Q.Q4_0, attn_k=Q.Q4_1, attn_v=Q.Q5_0, attn_output=Q.Q5_1, ffn_gate=Q.Q8_0,
                         ffn_up=Q.BF16, ffn_down=Q.IQ4_NL, output=Q.F16)),
    "qwen2": ("Qwen2ForCausalLM", SMALL | dict(hidden_size=256, num_hidden_layers=1, num_attention_heads=2,
                                                     head_dim=16, num_key_value_heads=1, intermediate_size=32),
                    dict(token_embd=Q.Q6_K, attn_q=Q.Q4_K, attn_k=Q.Q3_K, attn_v=Q.Q2_K, attn_output=Q.Q8_0, ffn_gate=Q.Q5_K,
                         ffn_up=Q.Q4_K, ffn_down=Q.Q8_0, output=Q.Q6_K)),
}


def random_blocks(shape, quantisation, generator):
    """Blocks of types that gguf dequantises but does not make: random bytes under scales of a sensible size."""
    elements, size = gguf.GGML_QUANT_SIZES[quantisation]
    blocks = torch.randint(0, 256, (shape[0] * shape[1] // elements, size), generator=generator, dtype=torch.uint8).numpy()
    places, scale = {Q.IQ4_NL: ((0,), 2e-3), Q.Q2_K: ((80, 82), 8e-3), Q.Q3_K: ((108,), 2e-3), Q.Q4_K: ((0, 2), 3e-4),
                     Q.Q5_K: ((0, 2), 1.5e-4), Q.Q6_K: ((208,), 5e-5)}[quantisation]
    for place in places:
        blocks[:, place:place + 2] = numpy.array([scale], dtype=numpy.float16).view(numpy.uint8)
    return blocks.reshape(shape[0], -1)


def make_quantised(name, seed):
    kind, options, types = QUANTISED[name]
    directory = HERE_GGUF / name
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    model = getattr(transformers, kind)(getattr(transformers, kind.replace("ForCausalLM", "Config"))(
        attn_implementation="eager", **options))
    randomise(model, generator)
    writer = gguf_writer(model, directory / "model.gguf")
    kept = {}
    for tensor, array in gguf_tensors(model):
        quantisation = Q.F32 if array.ndim == 1 else types[tensor.split(".")[-2]]
        if quantisation in (Q.F32, Q.F16):
            data = array.astype({Q.F32: numpy.float32, Q.F16: numpy.float16}[quantisation])
        elif quantisation in (Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.BF16):
            data = gguf.quants.quantize(array, quantisation)
        else:
            data = random_blocks(array.shape, quantisation, generator)
        writer.add_tensor(tensor, numpy.ascontiguousarray(data), raw_dtype=quantisation)
        kept[tensor] = gguf.quants.dequantize(data, quantisation).reshape(array.shape)
    gguf_write(writer)

    state = model.state_dict()
    for key, (tensor, _) in zip(state, list(gguf_tensors(model))):
        array = kept[tensor]
        if kind.startswith("Llama") and (".q_proj." in key or ".k_proj." in key):
            heads = options["num_attention_heads" if ".q_proj." in key else "num_key_value_heads"]
            array = array.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        state[key].copy_(torch.from_numpy(array.astype(numpy.float32)))
    expect(model.eval(), directory, generator, 4)


def make(name, seed):
    kind, options, special = MODELS[name]
    directory = HERE / name
    generator = torch.Generator().manual_seed(seed)
    cls = getattr(transformers, kind)
    config = cls.config_class(**options)
    model = cls(config)
    randomise(model, generator)
    if config.tie_word_embeddings and "LM" in kind:
        model.tie_weights()
    model.to(torch.float16 if seed % 3 else torch.bfloat16).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if "v4" in special:
        spell_v4(directory)
    if "bare" in special:
        spell_bare(directory)
    model = cls.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    expect(model, directory, generator)
    if "gguf" in special:
        make_gguf_twin(model, directory)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for root in (HERE, HERE_GGUF):
        shutil.rmtree(root, ignore_errors=True)
    for seed, name in enumerate(MODELS):
        make(name, seed)
    for seed, name in enumerate(QUANTISED):
        make_quantised(name, 100 + seed)
