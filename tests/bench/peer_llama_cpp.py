"""peer_llama_cpp.py - the cases of bench_model.c in llama.cpp.

    python tests/bench/peer_llama_cpp.py FILE.gguf THREADS ROUNDS WHAT...          (python with llama-cpp-python)

WHAT: pN prefill of N tokens, gB one more token of B independent sequences of 32 tokens, fB the same of B sequences of 256 tokens, each
with keys and values of its own.  Weights stay as in the file: what llama.cpp 0.3.36 repacks for AMX may end in SIGILL where GCC 12 compiled it.  Prints "WHAT TOKENS_PER_SECOND" with the median of the rounds, logits included.
"""
import sys
import time

import llama_cpp.llama_cpp as lib

DEPTH, SHARED = 32, 256


def fill(batch, rows):
    """rows: (token, position, sequence, whether logits are wanted)"""
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
        batch.seq_id[i][0] = sequence


def measure(model, vocabulary, threads, rounds, what):
    kind, count = what[0], int(what[1:])
    sequences = 1 if kind == "p" else count
    depth = {"p": 0, "g": DEPTH, "f": SHARED}[kind]
    params = lib.llama_context_default_params()
    params.n_ctx = sequences * (depth + rounds + 8) + (count if kind == "p" else 0) + 64
    params.n_batch = params.n_ubatch = max(512, count, depth)
    params.n_seq_max = sequences
    params.kv_unified = True
    params.n_threads = params.n_threads_batch = threads
    context = lib.llama_init_from_model(model, params)
    if not context:
        sys.exit(f"no context for {what}")
    memory = lib.llama_get_memory(context)
    batch = lib.llama_batch_init(params.n_batch, 0, 1)
    token = lambda i: i * 7919 % vocabulary

    def run(rows):
        fill(batch, rows)
        start = time.perf_counter()
        if lib.llama_decode(context, batch) != 0:
            sys.exit(f"llama_decode failed at {what}")
        lib.llama_get_logits_ith(context, len(rows) - 1)
        return time.perf_counter() - start

    taken = []
    if kind == "p":
        for _ in range(rounds):
            lib.llama_memory_clear(memory, True)
            taken.append(run([(token(i), i, 0, i == count - 1) for i in range(count)]))
    else:
        for sequence in range(sequences):
            run([(token(i), i, sequence, i == depth - 1) for i in range(depth)])
        for step in range(rounds + 1):
            seconds = run([(token(step + s), depth + step, s, True) for s in range(sequences)])
            if step > 0:
                taken.append(seconds)
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    print(what, f"{count / sorted(taken)[len(taken) // 2]:.2f}", flush=True)


def main(path, threads, rounds, *cases):
    lib.llama_backend_init()
    lib.llama_log_set(silent, None)
    params = lib.llama_model_default_params()
    params.use_extra_bufts = False
    model = lib.llama_load_model_from_file(path.encode(), params)
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    vocabulary = 32000
    for case in cases:
        measure(model, vocabulary, int(threads), int(rounds), case)


@lib.llama_log_callback
def silent(level, text, data):
    pass


if __name__ == "__main__":
    main(*sys.argv[1:])
