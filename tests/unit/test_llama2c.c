/* test_llama2c.c - the checkpoints of llama2.c: real ones, and every way in which a header can lie. */
#define _GNU_SOURCE
#include <stdint.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/config.h"
#include "model/llama2c.h"
#include "model/weights.h"
#include "../check.h"
#include "stderr_text.h"

/* 8 channels, 5 wide, 2 layers, 2 heads that share one key/value head, 3 tokens, 4 positions. */
static const int32_t small_header[7] = { 8, 5, 2, 2, 1, 3, 4 };
enum {
    SMALL_LAYER = 2 * 8 + 2 * 8 * 8 + 2 * 4 * 8 + 3 * 5 * 8,  // norms, q and o, k and v, feed-forward
    SMALL_FLOATS = 3 * 8 + 2 * SMALL_LAYER + 8 + 4 * 4,       // and 4 positions of 2 cosines and 2 sines
};

/* The numbers count 0, 1, 2, ...  lm_head: with one of its own. */
static struct buffer small_file(bool lm_head)
{
    struct buffer file = { 0 };
    int32_t header[7];
    memcpy(header, small_header, sizeof header);
    header[5] = lm_head ? -header[5] : header[5];
    buffer_append(&file, header, sizeof header);
    for (int i = 0; i < SMALL_FLOATS + (lm_head ? 3 * 8 : 0); i++)
        buffer_append(&file, &(float){ (float)i }, sizeof(float));
    return file;
}

/* In a directory of its own, which file_remove removes too. */
static void file_make(char path[96], const void *data, size_t size)
{
    test_directory(path, 80);
    strcat(path, "/model.bin");
    CHECK(file_write(path, data, size) == 0);
}

static void file_remove(char path[96])
{
    unlink(path);
    *strrchr(path, '/') = '\0';
    rmdir(path);
}

/* Exit code of opening these bytes as a file, config and weights. */
static int open_code(const void *data, size_t size)
{
    char path[96];
    int code, weights_code;
    struct model_config config;
    file_make(path, data, size);
    code = config_open(&config, path);
    weights_close(weights_open(path, &weights_code));
    EXPECT_INT(weights_code, code);
    file_remove(path);
    return code;
}

/* Goal: every tensor is found in its place, the angles skipped; rows of q and k come apart from pairs into halves. */
static void test_places(void)
{
    for (int lm_head = 0; lm_head < 2; lm_head++) {
        struct buffer file = small_file(lm_head);
        char path[96];
        int code;
        struct model_config config;
        file_make(path, file.data, file.size);
        EXPECT_INT(config_open(&config, path), EX_OK);
        struct weights *weights = weights_open(path, &code);
        CHECK(weights != NULL && weights_check(weights, &config) == 0);
        EXPECT(config.tied_embeddings == !lm_head && config.norm_epsilon == 1e-5 && config.rope_theta == 10000);
        EXPECT_INT(config.head_size, 4);
        struct tensor tensor;
        float first;
        static const struct { enum weight_role role; int64_t layer; int at; } places[] = {
            { WEIGHT_EMBEDDING, 0, 0 }, { WEIGHT_ATTN_NORM, 1, 24 + 8 }, { WEIGHT_Q, 1, 24 + 16 + 64 },
            { WEIGHT_K, 0, 24 + 16 + 128 }, { WEIGHT_V, 0, 24 + 16 + 192 }, { WEIGHT_O, 0, 24 + 16 + 256 },
            { WEIGHT_FF_NORM, 0, 24 + 16 + 384 }, { WEIGHT_GATE, 0, 24 + 32 + 384 }, { WEIGHT_DOWN, 0, 24 + 32 + 464 },
            { WEIGHT_UP, 0, 24 + 32 + 544 }, { WEIGHT_FINAL_NORM, 0, 24 + 2 * SMALL_LAYER },
        };
        for (size_t i = 0; i < COUNT_OF(places); i++) {
            CHECK(weights_role(weights, &config, places[i].role, places[i].layer, &tensor));
            tensor_read(&tensor, 0, 1, &first);
            EXPECT_NEAR(first, places[i].at, 0);
        }
        EXPECT(weights_role(weights, &config, WEIGHT_LM_HEAD, 0, &tensor) == lm_head);
        if (lm_head) {
            tensor_read(&tensor, 0, 1, &first);
            EXPECT_NEAR(first, SMALL_FLOATS, 0);
        }
        float rows[8][8];
        CHECK(weights_role(weights, &config, WEIGHT_Q, 0, &tensor));
        tensor_read_canonical(&tensor, 4, rows[0]);  // rows 0 .. 7 of the file begin at 40, 48, ...
        static const int stored[] = { 0, 2, 1, 3, 4, 6, 5, 7 };
        for (int n = 0; n < 8; n++)
            EXPECT_NEAR(rows[n][0], 40 + 8 * stored[n], 0);
        weights_close(weights);
        free(file.data);
        file_remove(path);
    }
}

/* Goal: no beginning of a file is taken for one, nor a file with more behind it. */
static void test_every_truncation_is_refused(void)
{
    struct buffer file = small_file(true);
    struct model_config config;
    for (size_t size = 0; size < file.size; size++) {
        void *exact = memory_alloc(size + 1, 1);
        memcpy(exact, file.data, size);
        if (llama2c_config(&config, exact, size, "cut") == 0)
            TEST_FAIL("%zu of %zu bytes were accepted", size, file.size);
        free(exact);
    }
    EXPECT_INT(llama2c_config(&config, file.data, file.size, "whole"), 0);
    buffer_append(&file, "", 1);
    EXPECT_INT(llama2c_config(&config, file.data, file.size, "long"), -1);
    EXPECT_INT(open_code(file.data, file.size), EX_DATAERR);
    EXPECT_INT(open_code(file.data, 28), EX_DATAERR);
    EXPECT_INT(open_code("", 0), EX_DATAERR);
    free(file.data);
}

/* Goal: each number of the header broken is refused in one line: zero, negative, beyond its limit, or not the file's size. */
static void test_each_field_broken(void)
{
    static const int32_t wrong[] = { 0, -1, 1, 7, 1 << 24, INT32_MAX, INT32_MIN };
    struct buffer file = small_file(false);
    for (size_t i = 0; i < COUNT_OF(small_header); i++) {
        for (size_t k = 0; k < COUNT_OF(wrong); k++) {
            struct model_config config;
            if (wrong[k] == small_header[i])
                continue;
            memcpy(file.data + i * sizeof wrong[k], &wrong[k], sizeof wrong[k]);
            stderr_hold();
            int result = llama2c_config(&config, file.data, file.size, "broken");
            const char *message = stderr_release(), *end = strchr(message, '\n');
            if (result == 0 || end == NULL || end[1] != '\0')
                TEST_FAIL("number %zu = %d was %s: %s", i, wrong[k], result == 0 ? "accepted" : "refused", message);
        }
        memcpy(file.data + i * sizeof(int32_t), &small_header[i], sizeof(int32_t));
    }
    free(file.data);
}

/* Goal: what only looks like it is refused by its name: the later versions of the format, PyTorch's files. */
static void test_others(void)
{
    static const int32_t header[64] = { 0x616b3432, 2 };
    struct model_config config;
    stderr_hold();
    EXPECT_INT(llama2c_config(&config, header, sizeof header, "model.bin"), -1);
    EXPECT_TEXT(stderr_release(), "test_llama2c: cannot read llama2.c file \"model.bin\": it has version 2, only version 0 is "
                                  "supported\n");
    EXPECT(llama2c_is("a/model.bin", header, sizeof header) && !llama2c_is("model.bin", "GGUF", 4));
    EXPECT(!llama2c_is("model.gguf", header, 4) && !llama2c_is(".bin", header, 4) && !llama2c_is("", NULL, 0));
    stderr_hold();
    EXPECT_INT(llama2c_config(&config, "PK\3\4 and so on, for more than 28 bytes", 40, "pytorch_model.bin"), -1);
    EXPECT_TEXT(stderr_release(), "test_llama2c: cannot read llama2.c file \"pytorch_model.bin\": it is a PyTorch archive, only "
                                  "safetensors of it are supported\n");
}

/*
 * Goal: stories260K.bin and stories260K.gguf hold the same numbers.  Their configs differ: the .bin says 512 positions, with which
 * the model was trained, the GGUF file 2048; and the GGUF file stores the token embedding again as lm_head.
 */
static void test_stories(void)
{
    const char *bin = test_data("stories260K/stories260K.bin"), *gguf = test_data("stories260K/stories260K.gguf");
    if (bin == NULL || gguf == NULL)
        TEST_SKIP("../shared/data is not here");
    const char *const paths[] = { bin, gguf };
    char keys[2][KEY_SIZE];
    for (size_t i = 0; i < 2; i++) {
        int code;
        struct model_config config;
        EXPECT_INT(config_open(&config, paths[i]), EX_OK);
        EXPECT_INT(config.position_max, i == 0 ? 512 : 2048);
        EXPECT_INT(config.tied_embeddings, i == 0);
        struct weights *weights = weights_open(paths[i], &code);
        CHECK(weights != NULL && weights_check(weights, &config) == 0);
        if (!config.tied_embeddings) {
            struct tensor head, embedding;
            CHECK(weights_role(weights, &config, WEIGHT_LM_HEAD, 0, &head));
            CHECK(weights_role(weights, &config, WEIGHT_EMBEDDING, 0, &embedding));
            EXPECT(head.size_bytes == embedding.size_bytes && memcmp(head.data, embedding.data, head.size_bytes) == 0);
        }
        config.position_max = 512;
        config.tied_embeddings = true;
        weights_key(weights, &config, NULL, keys[i]);
        weights_close(weights);
    }
    EXPECT_TEXT(keys[0], keys[1]);
}

/* Goal: a second real file, with one token per character, opens and fits its config. */
static void test_characters(void)
{
    const char *path = test_data("tinystories-char/model5000.bin");
    if (path == NULL)
        TEST_SKIP("../shared/data is not here");
    int code;
    struct model_config config;
    EXPECT_INT(config_open(&config, path), EX_OK);
    EXPECT(config.channel_count == 128 && config.vocab_size == 105 && config.position_max == 256 && config.layer_count == 5);
    struct weights *weights = weights_open(path, &code);
    EXPECT(weights != NULL && weights_check(weights, &config) == 0);
    weights_close(weights);
}

int main(void)
{
    log_open("test_llama2c", -1);
    RUN(test_places);
    RUN(test_every_truncation_is_refused);
    RUN(test_each_field_broken);
    RUN(test_others);
    RUN(test_stories);
    RUN(test_characters);
    return tests_end();
}
