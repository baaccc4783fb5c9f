"""make_encoders.py - tiny random encoders and what transformers computes with them.

    python tests/parity/make_encoders.py          (python with torch, transformers and safetensors)

Writes tests/parity/encoders/NAME/ for each model below:

    config.json, model.safetensors   as transformers saves them
    expected.json                    texts (tokens, types or null), their last hidden states (T, C) and, with a head, scores (N)

and tests/parity/encoders/buckets.json: for pairs of position_buckets and max_relative_positions the bucket of each distance.
Everything is computed in float32 from the weights as stored, so rounding to F16 or BF16 is no part of the difference.
"""
import json
import pathlib
import shutil

import safetensors.torch
import torch
import transformers
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

HERE = pathlib.Path(__file__).resolve().parent / "encoders"

BERT = dict(vocab_size=23, num_hidden_layers=2, max_position_embeddings=24)
ROBERTA = dict(vocab_size=23, num_hidden_layers=2, max_position_embeddings=24, bos_token_id=0, eos_token_id=2)
DISTIL = dict(vocab_size=23, n_layers=2, max_position_embeddings=24)
DEBERTA = dict(vocab_size=23, num_hidden_layers=2, relative_attention=True, pos_att_type="p2c|c2p", layer_norm_eps=1e-7)

# name: class, options, type of the weights, lengths of the texts
MODELS = {
    # head size 5, sizes that fill no panel, one label
    "bert_odd": ("Bert*", dict(BERT, hidden_size=15, num_attention_heads=3, intermediate_size=22, num_labels=1), "float32", (1, 6, 19)),
    # no head and so no prefix; the tanh form of GELU; three types
    "bert_bare": ("BertModel", dict(BERT, hidden_size=12, num_attention_heads=2, intermediate_size=20, hidden_act="gelu_new",
                                    type_vocab_size=3), "float16", (2, 9, 24)),
    # one head of two panels; five labels; ReLU; names of norms as in 2018 (see rename)
    "bert_old": ("Bert*", dict(BERT, hidden_size=17, num_attention_heads=1, intermediate_size=13, hidden_act="relu", type_vocab_size=1,
                               layer_norm_eps=1e-5, num_labels=5), "bfloat16", (3, 7)),

    # the number of labels that transformers does not write
    "distilbert_two": ("DistilBert*", dict(DISTIL, n_layers=1, dim=14, n_heads=2, hidden_dim=20), "float32", (1, 5, 17)),
    "distilbert_relu": ("DistilBert*", dict(DISTIL, dim=12, n_heads=4, hidden_dim=31, activation="relu", sinusoidal_pos_embds=True,
                                            num_labels=1), "bfloat16", (4, 24)),
    "distilbert_bare": ("DistilBertModel", dict(DISTIL, n_layers=1, dim=10, n_heads=1, hidden_dim=16), "float16", (3, 8)),

    "roberta_one": ("Roberta*", dict(ROBERTA, num_hidden_layers=1, hidden_size=15, num_attention_heads=3, intermediate_size=18,
                                     num_labels=1), "float32", (1, 6, 22)),
    # padding inside a text (see texts_of); one type
    "roberta_padding": ("Roberta*", dict(ROBERTA, hidden_size=12, num_attention_heads=2, intermediate_size=17, type_vocab_size=1,
                                         num_labels=3, pad_token_id=3), "bfloat16", (4, 15)),
    "roberta_bare": ("RobertaModel", dict(ROBERTA, num_hidden_layers=1, hidden_size=10, num_attention_heads=5, intermediate_size=16,
                                          hidden_act="silu"), "float16", (2, 11)),
    "xlm_roberta": ("XLMRoberta*", dict(ROBERTA, num_hidden_layers=1, hidden_size=12, num_attention_heads=3, intermediate_size=16),
                    "float16", (5, 12)),

    # embeddings normed, then projected
    "electra_projected": ("Electra*", dict(BERT, hidden_size=14, embedding_size=9, num_attention_heads=2, intermediate_size=15,
                                           num_labels=2), "float16", (1, 6, 13)),
    "electra_one": ("Electra*", dict(BERT, num_hidden_layers=1, hidden_size=12, embedding_size=12, num_attention_heads=3,
                                     intermediate_size=16, num_labels=1), "bfloat16", (3, 9)),

    # DeBERTa-v3: logarithmic buckets, texts beyond them, no absolute positions
    "deberta_v3": ("DebertaV2*", dict(DEBERTA, hidden_size=14, num_attention_heads=2, intermediate_size=21, position_buckets=8,
                                      max_relative_positions=-1, max_position_embeddings=20, norm_rel_ebd="layer_norm",
                                      share_att_key=True, position_biased_input=False, type_vocab_size=0, num_labels=1),
                   "float32", (1, 4, 9, 37)),
    # DeBERTa-v2-xlarge: the same with a convolution
    "deberta_conv": ("DebertaV2*", dict(DEBERTA, hidden_size=12, num_attention_heads=3, intermediate_size=16, position_buckets=6,
                                        max_relative_positions=12, max_position_embeddings=20, norm_rel_ebd="layer_norm",
                                        share_att_key=True, position_biased_input=False, conv_kernel_size=3, conv_act="gelu",
                                        num_labels=2), "float16", (1, 2, 16)),
    # one layer with a convolution of five taps; matrices of their own for positions; absolute positions and types too;
    # embeddings projected, then normed; distances that are cut off
    "deberta_own": ("DebertaV2*", dict(DEBERTA, num_hidden_layers=1, hidden_size=12, embedding_size=7, num_attention_heads=2,
                                       intermediate_size=16, position_buckets=-1, max_relative_positions=5,
                                       max_position_embeddings=18, norm_rel_ebd="none", share_att_key=False,
                                       position_biased_input=True, type_vocab_size=2, conv_kernel_size=5, conv_act="tanh",
                                       pooler_hidden_act="tanh", num_labels=3), "bfloat16", (2, 18)),
    # terms one at a time, and no relative positions at all
    "deberta_c2p": ("DebertaV2*", dict(DEBERTA, num_hidden_layers=1, hidden_size=12, num_attention_heads=2, intermediate_size=16,
                                       pos_att_type=["c2p"], position_buckets=4, max_relative_positions=-1, max_position_embeddings=16,
                                       share_att_key=False, position_biased_input=False, num_labels=1), "bfloat16", (3, 20)),
    "deberta_p2c": ("DebertaV2Model", dict(DEBERTA, num_hidden_layers=1, hidden_size=12, num_attention_heads=2, intermediate_size=16,
                                           pos_att_type=["p2c"], position_buckets=-1, max_relative_positions=-1,
                                           max_position_embeddings=8, share_att_key=False, position_biased_input=False),
                    "bfloat16", (3, 20)),
    "deberta_absolute": ("DebertaV2*", dict(DEBERTA, num_hidden_layers=1, hidden_size=12, num_attention_heads=3, intermediate_size=16,
                                            relative_attention=False, max_position_embeddings=16, type_vocab_size=1, num_labels=1),
                         "bfloat16", (3, 16)),
}

BUCKETS = [(256, 512), (32, 128), (8, 20), (7, 30)]
DISTANCES = 700


def randomise(model, generator):
    """Weights large enough that attention is far from uniform and every gain, bias and position matters."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name.lower() and name.endswith("weight"):
            weight.data = 1 + 0.3 * noise
        elif weight.dim() == 1:
            weight.data = 0.3 * noise
        elif "embeddings" in name and "proj" not in name:
            weight.data = 0.8 * noise
        else:
            weight.data = 1.5 * noise / weight[0].numel() ** 0.5


def rename(file):
    """Norms' weights and biases under their names before 2019."""
    tensors = safetensors.torch.load_file(file)
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
           for name, tensor in tensors.items()}
    safetensors.torch.save_file(old, file, metadata={"format": "pt"})


def texts_of(config, lengths, padding, generator):
    texts = []
    types = getattr(config, "type_vocab_size", 0)
    for length in lengths:
        tokens = torch.randint(4, config.vocab_size, (length,), generator=generator)
        if padding:
            tokens[length // 2] = config.pad_token_id
        texts.append((tokens, torch.randint(0, types, (length,), generator=generator) if types > 1 else None))
    return texts


def rounded(tensor):
    return [float(f"{x:.6g}") for x in tensor.flatten().tolist()]


def make(name, seed):
    kind, options, dtype, lengths = MODELS[name]
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    generator = torch.Generator().manual_seed(seed)
    stem = kind.removesuffix("*").removesuffix("Model")
    network = getattr(transformers, kind.replace("*", "ForSequenceClassification"))
    model = network(getattr(transformers, stem + "Config")(**options))
    randomise(model, generator)
    model.to(getattr(torch, dtype)).save_pretrained(directory)

    model = network.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    out = []
    for tokens, types in texts_of(model.config, lengths, "padding" in name, generator):
        given = dict(input_ids=tokens[None], attention_mask=torch.ones(1, len(tokens)), output_hidden_states=True)
        if types is not None:
            given["token_type_ids"] = types[None]
        with torch.no_grad():
            result = model(**given)
        text = dict(tokens=tokens.tolist(), types=types.tolist() if types is not None else None,
                    hidden=rounded(result.hidden_states[-1]))
        if "logits" in result:
            text["scores"] = rounded(result.logits)
        out.append(text)
    (directory / "expected.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
    if name == "bert_old":
        rename(directory / "model.safetensors")
    print(name, "scores", [text.get("scores") for text in out])


def buckets():
    out = []
    for count, maximum in BUCKETS:
        distances = torch.arange(DISTANCES)
        bucket = make_log_bucket_position(distances, count, maximum).long()
        out.append(dict(position_buckets=count, max_relative_positions=maximum, bucket=bucket.tolist()))
    (HERE / "buckets.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, name in enumerate(MODELS):
        make(name, seed)
    buckets()
