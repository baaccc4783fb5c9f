/*
 * make_gguf.c - a llama model with random weights and no vocabulary as GGUF, for measurements beside llama.cpp.
 *
 *     make_gguf SHAPE TYPE FILE [value]      SHAPE: tinyllama, llama2-7b, or C,L,NH,NKV,F,V; TYPE: F32, F16, BF16, Q8_0 or Q4_0
 *
 * value: a value model, with a value head in the LM head's place.
 * Rows of a matrix repeat after some hundred: speed does not depend on the numbers.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "math/quant.h"
#include "model/gguf_write.h"

enum { DISTINCT_ROWS = 128 };

struct shape {
    int64_t C, L, NH, NKV, F, V;
};

struct writing {
    struct file_out file;
    enum tensor_type type;
    bool is_value;
};

static void put_matrix(struct writing *writing, int64_t N, int64_t K)
{
    size_t row_bytes = tensor_row_bytes(writing->type, (size_t)K);
    float *row = memory_alloc((size_t)K, sizeof *row);
    unsigned char *rows = memory_alloc(DISTINCT_ROWS, row_bytes);
    for (size_t n = 0; n < DISTINCT_ROWS; n++) {
        for (size_t k = 0; k < (size_t)K; k++)
            row[k] = 0.02f * (float)philox_normal(1, PHILOX_INIT, n, (uint64_t)N, (uint32_t)k);
        quant_row(writing->type, rows + n * row_bytes, row, (size_t)K);
    }
    for (size_t n = 0; n < (size_t)N; n++)
        file_out_write(&writing->file, rows + n * 37 % DISTINCT_ROWS * row_bytes, row_bytes);
    gguf_pad(&writing->file, (size_t)N * row_bytes);
    free(rows);
    free(row);
}

static void put_ones(struct writing *writing, int64_t C)
{
    float one = 1.0f;
    for (int64_t c = 0; c < C; c++)
        file_out_write(&writing->file, &one, sizeof one);
    gguf_pad(&writing->file, (size_t)C * sizeof one);
}

/* Every tensor in the order of the file: its entry in the table, or its data. */
static void tensor(struct gguf_out *out, struct writing *writing, const char *name, int64_t layer, int64_t N, int64_t K)
{
    char full[64];
    int64_t shape[] = { N, K };
    snprintf(full, sizeof full, layer < 0 ? "%s" : "blk.%2$lld.%1$s", name, (long long)layer);
    if (out != NULL)
        gguf_put_tensor(out, full, N == 1 ? TENSOR_F32 : writing->type, N == 1 ? 1 : 2, N == 1 ? shape + 1 : shape);
    else if (N == 1)
        put_ones(writing, K);
    else
        put_matrix(writing, N, K);
}

static void value_head(struct gguf_out *out, struct writing *writing, int64_t C)
{
    if (out != NULL) {
        gguf_put_tensor(out, "v_head.summary.weight", TENSOR_F32, 2, (const int64_t[]){ 1, C });
        gguf_put_tensor(out, "v_head.summary.bias", TENSOR_F32, 1, (const int64_t[]){ 1 });
    } else {
        put_ones(writing, C);
        put_ones(writing, 1);
    }
}

static void tensors(struct gguf_out *out, struct writing *writing, struct shape s)
{
    int64_t HS = s.C / s.NH;
    tensor(out, writing, "token_embd.weight", -1, s.V, s.C);
    for (int64_t l = 0; l < s.L; l++) {
        tensor(out, writing, "attn_norm.weight", l, 1, s.C);
        tensor(out, writing, "attn_q.weight", l, s.C, s.C);
        tensor(out, writing, "attn_k.weight", l, s.NKV * HS, s.C);
        tensor(out, writing, "attn_v.weight", l, s.NKV * HS, s.C);
        tensor(out, writing, "attn_output.weight", l, s.C, s.C);
        tensor(out, writing, "ffn_norm.weight", l, 1, s.C);
        tensor(out, writing, "ffn_gate.weight", l, s.F, s.C);
        tensor(out, writing, "ffn_up.weight", l, s.F, s.C);
        tensor(out, writing, "ffn_down.weight", l, s.C, s.F);
    }
    tensor(out, writing, "output_norm.weight", -1, 1, s.C);
    if (writing->is_value)
        value_head(out, writing, s.C);
    else
        tensor(out, writing, "output.weight", -1, s.V, s.C);
}

int main(int argc, char **argv)
{
    static const struct { const char *name; struct shape shape; } named[] = {
        { "tinyllama", { 2048, 22, 32, 4, 5632, 32000 } }, { "llama2-7b", { 4096, 32, 32, 32, 11008, 32000 } },
    };
    struct shape s = { 0 };
    struct writing writing = { .type = TENSOR_TYPE_COUNT, .is_value = argc == 5 && strcmp(argv[4], "value") == 0 };
    bool is_usage = argc == 4 || writing.is_value;
    for (int type = 0; is_usage && type <= TENSOR_Q4_0; type++) {
        if (strcmp(argv[2], tensor_formats[type].name) == 0)
            writing.type = (enum tensor_type)type;
    }
    for (size_t i = 0; is_usage && i < sizeof named / sizeof named[0]; i++)
        if (strcmp(argv[1], named[i].name) == 0)
            s = named[i].shape;
    if (is_usage && s.C == 0)
        sscanf(argv[1], "%" SCNd64 ",%" SCNd64 ",%" SCNd64 ",%" SCNd64 ",%" SCNd64 ",%" SCNd64, &s.C, &s.L, &s.NH, &s.NKV, &s.F,
               &s.V);
    if (writing.type == TENSOR_TYPE_COUNT || s.V == 0) {
        fprintf(stderr, "usage: make_gguf tinyllama|llama2-7b|C,L,NH,NKV,F,V F32|F16|BF16|Q8_0|Q4_0 FILE [value]\n");
        return 64;
    }
    struct gguf_out out = { 0 };
    gguf_put_text(&out, "general.architecture", "llama");
    gguf_put_integer(&out, "llama.context_length", 4096);
    gguf_put_integer(&out, "llama.embedding_length", (uint32_t)s.C);
    gguf_put_integer(&out, "llama.block_count", (uint32_t)s.L);
    gguf_put_integer(&out, "llama.feed_forward_length", (uint32_t)s.F);
    gguf_put_integer(&out, "llama.attention.head_count", (uint32_t)s.NH);
    gguf_put_integer(&out, "llama.attention.head_count_kv", (uint32_t)s.NKV);
    gguf_put_integer(&out, "llama.rope.dimension_count", (uint32_t)(s.C / s.NH));
    gguf_put_integer(&out, "llama.vocab_size", (uint32_t)s.V);
    gguf_put_float(&out, "llama.rope.freq_base", 10000.0f);
    gguf_put_float(&out, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_put_text(&out, "tokenizer.ggml.model", "no_vocab");
    tensors(&out, &writing, s);
    if (file_out_begin(&writing.file, argv[3]) != 0)
        return 74;
    gguf_write_head(&out, &writing.file);
    tensors(NULL, &writing, s);
    gguf_out_free(&out);
    return file_out_end(&writing.file, true) == 0 ? 0 : 74;
}
