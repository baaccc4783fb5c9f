/* test_encoder.c - encoders' configs and directories: what is read, what is refused, what the key depends on. */
#include <sysexits.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "math/kernels.h"
#include "model/encoder.h"
#include "model/encoder_config.h"
#include "model/weights.h"
#include "../check.h"
#include "stderr_text.h"

static struct pool *pool;

/* ---- configs ---- */

#define COUNTS "\"vocab_size\": 23, \"max_position_embeddings\": 20"
#define SIZES COUNTS ", \"hidden_size\": 12, \"num_hidden_layers\": 2, \"num_attention_heads\": 3, \"intermediate_size\": 16"
static const char bert_json[] = "{\"model_type\": \"bert\", \"architectures\": [\"BertForSequenceClassification\"], " SIZES "}";
static const char roberta_json[] =
    "{\"model_type\": \"roberta\", \"architectures\": [\"RobertaForSequenceClassification\"], " SIZES "}";
static const char distilbert_json[] =
    "{\"model_type\": \"distilbert\", \"dim\": 12, \"n_layers\": 2, \"n_heads\": 3, \"hidden_dim\": 16, " COUNTS "}";
static const char deberta_json[] =
    "{\"model_type\": \"deberta-v2\", \"architectures\": [\"DebertaV2ForSequenceClassification\"],"
    " \"relative_attention\": true, \"pos_att_type\": \"c2p|p2c\", \"position_buckets\": 8, \"norm_rel_ebd\": \"layer_norm\","
    " \"share_att_key\": true, \"position_biased_input\": false, " SIZES "}";

/* The JSON of text with one key set to value (NULL: removed; key NULL: as it is), read; 0 or -1. */
static int read_changed(struct encoder_config *config, const char *text, const char *key, const char *value)
{
    json_t *json = json_parse(text, strlen(text), "base");
    if (key != NULL && value == NULL)
        json_object_del(json, key);
    else if (key != NULL)
        json_object_set_new(json, key, json_loads(value, JSON_DECODE_ANY, NULL));
    int result = encoder_config_from_json(config, json, "made");
    json_decref(json);
    return result;
}

/* Goal: what a config leaves out is what transformers takes for it, a family each. */
static void test_defaults(void)
{
    struct encoder_config config;
    EXPECT_INT(read_changed(&config, bert_json, NULL, NULL), 0);
    EXPECT_INT(config.label_count, 2);
    EXPECT_INT(config.type_count, 2);
    EXPECT_INT(config.embedding_size, 12);
    EXPECT_NEAR(config.norm_epsilon, 1e-12, 0);
    EXPECT(config.activation == ENCODER_GELU && config.pool_activation == ENCODER_TANH);
    EXPECT_INT(read_changed(&config, distilbert_json, NULL, NULL), 0);
    EXPECT_INT(config.label_count, 0);
    EXPECT_INT(config.type_count, 0);
    EXPECT_INT(read_changed(&config, roberta_json, NULL, NULL), 0);
    EXPECT_INT(config.position_first, 2);
    EXPECT_INT(read_changed(&config, deberta_json, NULL, NULL), 0);
    EXPECT_INT(config.position_count, 0);
    EXPECT_INT(config.type_count, 0);
    EXPECT_INT(config.relative_max, 20);
    EXPECT_INT(config.span, 8);
    EXPECT_NEAR(config.norm_epsilon, 1e-7, 0);
    EXPECT(config.content_to_position && config.position_to_content && config.shared_keys && config.relative_norm);
    EXPECT_INT(read_changed(&config, deberta_json, "position_buckets", "-1"), 0);
    EXPECT_INT(config.span, 20);
}

/* Goal: the number of labels is the size of id2label, else num_labels; heads of other classes are no scores. */
static void test_labels(void)
{
    struct encoder_config config;
    EXPECT_INT(read_changed(&config, bert_json, "id2label", "{\"0\": \"a\", \"1\": \"b\", \"2\": \"c\"}"), 0);
    EXPECT_INT(config.label_count, 3);
    EXPECT_INT(read_changed(&config, bert_json, "num_labels", "1"), 0);
    EXPECT_INT(config.label_count, 1);
    EXPECT_INT(read_changed(&config, bert_json, "architectures", "[\"BertForTokenClassification\"]"), 0);
    EXPECT_INT(config.label_count, 0);
    EXPECT_INT(read_changed(&config, bert_json, "architectures", "[\"BertModel\"]"), 0);
    EXPECT_INT(config.label_count, 0);
}

/* Goal: every field that is wrong, or asks for what is not supported, is refused in a line that names it. */
static void test_config_refusals(void)
{
    static const struct { const char *base, *key, *value, *message; } cases[] = {
        { bert_json, "model_type", "\"gpt2\"", "model_type \"gpt2\" is no encoder" },
        { bert_json, "model_type", NULL, "model_type \"\" is no encoder" },
        { bert_json, "architectures", "[\"JinaBertModel\"]", "architecture \"JinaBertModel\" is not supported" },
        { bert_json, "architectures", "[\"BertLMHeadModel\"]", "\"BertLMHeadModel\" is not supported" },
        { bert_json, "architectures", "\"BertModel\"", "architectures is \"BertModel\"" },
        { bert_json, "vocab_size", "0", "vocab_size is 0, it must be 1 to 16777216" },
        { bert_json, "vocab_size", "-5", "vocab_size is -5" },
        { bert_json, "vocab_size", "16777217", "vocab_size is 16777217" },
        { bert_json, "vocab_size", NULL, "no whole number \"vocab_size\"" },
        { bert_json, "vocab_size", "12.5", "vocab_size is 12.5, it must be a whole number" },
        { bert_json, "hidden_size", "131073", "hidden_size is 131073" },
        { bert_json, "hidden_size", "13", "hidden size 13 is no multiple of its 3 heads" },
        { bert_json, "num_hidden_layers", "0", "num_hidden_layers is 0" },
        { bert_json, "num_hidden_layers", "4097", "num_hidden_layers is 4097" },
        { bert_json, "num_attention_heads", "5", "no multiple of its 5 heads" },
        { bert_json, "num_attention_heads", "0", "num_attention_heads is 0" },
        { bert_json, "intermediate_size", "9223372036854775807", "intermediate_size is 9223372036854775807" },
        { bert_json, "max_position_embeddings", "0", "max_position_embeddings is 0" },
        { bert_json, "type_vocab_size", "-1", "type_vocab_size is -1, it must be 0 to" },
        { bert_json, "layer_norm_eps", "0", "layer_norm_eps is 0" },
        { bert_json, "layer_norm_eps", "\"NaN\"", "layer_norm_eps is \"NaN\"" },
        { bert_json, "layer_norm_eps", "-1e-5", "it must be above 0" },
        { bert_json, "hidden_act", "\"quick_gelu\"", "hidden_act is \"quick_gelu\", only gelu" },
        { bert_json, "hidden_act", "7", "hidden_act is 7" },
        { bert_json, "id2label", "{}", "it has 0 labels" },
        { bert_json, "id2label", "[]", "id2label is []" },
        { bert_json, "num_labels", "0", "it has 0 labels, it must have 1 to 65536" },
        { bert_json, "num_labels", "70000", "it has 70000 labels" },
        { bert_json, "is_decoder", "true", "is_decoder is true" },
        { bert_json, "add_cross_attention", "true", "add_cross_attention is true" },
        { bert_json, "position_embedding_type", "\"relative_key\"", "position_embedding_type is \"relative_key\"" },
        { bert_json, "pruned_heads", "{\"0\": [1]}", "pruned_heads is {\"0\":[1]}" },
        { bert_json, "quantization_config", "{\"bits\": 4}", "quantization_config is {\"bits\":4}" },
        { distilbert_json, "n_heads", "5", "no multiple of its 5 heads" },
        { distilbert_json, "dim", NULL, "no whole number \"dim\"" },
        { distilbert_json, "activation", "\"mish\"", "activation is \"mish\"" },
        { roberta_json, "pad_token_id", "19", "pad_token_id is 19" },
        { roberta_json, "pad_token_id", "-1", "pad_token_id is -1" },
        { deberta_json, "pos_att_type", "\"c2p|p2p\"", "pos_att_type has \"p2p\"" },
        { deberta_json, "pos_att_type", "[\"c2p\", 3]", "it must be a list of c2p and p2c" },
        { deberta_json, "pos_att_type", "3", "pos_att_type is 3" },
        { deberta_json, "position_buckets", "1", "position_buckets is 1, it must be 2 to 37" },
        { deberta_json, "position_buckets", "38", "position_buckets is 38, it must be 2 to 37" },
        { deberta_json, "position_buckets", "2000000", "position_buckets is 2000000" },
        { deberta_json, "position_buckets", "\"8\"", "position_buckets is \"8\"" },
        { deberta_json, "max_relative_positions", "3000000000", "max_relative_positions is 3000000000" },
        { deberta_json, "norm_rel_ebd", "\"batch_norm\"", "norm_rel_ebd is \"batch_norm\"" },
        { deberta_json, "relative_attention", "1", "relative_attention is 1, it must be true or false" },
        { deberta_json, "share_att_key", "\"yes\"", "share_att_key is \"yes\"" },
        { deberta_json, "attention_head_size", "8", "attention_head_size is 8, only 4 is supported" },
        { deberta_json, "pooler_hidden_size", "24", "pooler_hidden_size is 24, only 12 is supported" },
        { deberta_json, "pooler_hidden_act", "\"mish\"", "pooler_hidden_act is \"mish\"" },
        { deberta_json, "conv_kernel_size", "4", "conv_kernel_size is 4, it must be odd" },
        { deberta_json, "conv_kernel_size", "-3", "conv_kernel_size is -3" },
        { deberta_json, "conv_groups", "2", "conv_groups is 2, only 1 is supported" },
        { deberta_json, "conv_act", "\"elu\"", "conv_act is \"elu\"" },
        { deberta_json, "embedding_size", "0", "embedding_size is 0" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct encoder_config config;
        stderr_hold();
        int result = read_changed(&config, cases[i].base, cases[i].key, cases[i].value);
        const char *message = stderr_release();
        if (result != -1 || strstr(message, cases[i].message) == NULL || strchr(message, '\n') != strrchr(message, '\n'))
            TEST_FAIL("%s = %s gives %d and \"%s\"", cases[i].key, cases[i].value ? cases[i].value : "nothing", result, message);
    }
}

/* ---- directories ---- */

/* Goal: an open encoder says what it takes: RoBERTa's positions begin behind the padding's id, relative ones do not end. */
static void test_sizes(void)
{
    static const struct { const char *name; size_t vocab, positions, types, channels, labels; } cases[] = {
        { "bert_old", 23, 24, 1, 17, 5 },
        { "distilbert_bare", 23, 24, 0, 10, 0 },
        { "roberta_padding", 23, 20, 1, 12, 3 },
        { "deberta_v3", 23, SIZE_MAX, 0, 14, 1 },
        { "deberta_own", 23, 18, 2, 12, 3 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int code;
        char *path = memory_printf("tests/parity/encoders/%s", cases[i].name);
        struct encoder *encoder = encoder_open(path, TENSOR_TYPE_COUNT, false, pool, &code);
        free(path);
        EXPECT(encoder != NULL);
        if (encoder == NULL)
            return;
        EXPECT_INT(encoder_vocab_size(encoder), cases[i].vocab);
        EXPECT_INT(encoder_position_max(encoder), cases[i].positions);
        EXPECT_INT(encoder_type_count(encoder), cases[i].types);
        EXPECT_INT(encoder_channel_count(encoder), cases[i].channels);
        EXPECT_INT(encoder_label_count(encoder), cases[i].labels);
        encoder_close(encoder);
    }
}

static char directory[64];

static void directory_write(const char *file, const void *data, size_t size)
{
    char *path = memory_printf("%s/%s", directory, file);
    EXPECT_INT(file_write(path, data, size), 0);
    free(path);
}

/* A fixture of tests/parity/encoders in memory, to be changed and written as the directory. */
struct copy {
    char *config;
    size_t config_size, count;
    struct tensor_out *tensors;
};

static struct copy copy_read(const char *name)
{
    int code;
    struct copy copy = { 0 };
    char *path = memory_printf("tests/parity/encoders/%s", name), *config = memory_printf("%s/config.json", path);
    struct weights *weights = weights_open(path, &code);
    copy.config = file_read(config, &copy.config_size);
    if (weights == NULL || copy.config == NULL)
        abort();
    copy.count = weights_count(weights);
    copy.tensors = memory_alloc(copy.count, sizeof *copy.tensors);
    for (size_t i = 0; i < copy.count; i++) {
        const struct tensor *tensor = weights_at(weights, i);
        float *data = memory_alloc(tensor_elements(tensor), sizeof *data);
        tensor_read(tensor, 0, tensor_elements(tensor), data);
        copy.tensors[i] = (struct tensor_out){ .name = memory_text(tensor->name), .rank = tensor->rank, .data = data };
        memcpy(copy.tensors[i].shape, tensor->shape, sizeof tensor->shape);
    }
    weights_close(weights);
    free(config);
    free(path);
    return copy;
}

static void copy_write(const struct copy *copy)
{
    struct buffer file = { 0 };
    safetensors_write(&file, copy->tensors, copy->count, NULL, 0);
    directory_write("config.json", copy->config, copy->config_size);
    directory_write("model.safetensors", file.data, file.size);
    free(file.data);
}

static void copy_free(struct copy *copy)
{
    for (size_t i = 0; i < copy->count; i++) {
        free((void *)copy->tensors[i].name);
        free((void *)copy->tensors[i].data);
    }
    free(copy->tensors);
    free(copy->config);
}

/* Opens the directory; true when it is refused with this code in one line that has the text. */
static bool refused(int expected, const char *text)
{
    int code = EX_OK;
    stderr_hold();
    struct encoder *encoder = encoder_open(directory, TENSOR_TYPE_COUNT, false, pool, &code);
    const char *message = stderr_release();
    bool right = encoder == NULL && code == expected && strstr(message, text) != NULL
        && strchr(message, '\n') == strrchr(message, '\n');
    if (!right)
        printf("# %s: code %d, \"%s\"\n", text, code, message);
    encoder_close(encoder);
    return right;
}

/* Goal: each tensor left out, and each with one row more than it should have, is refused by name. */
static void test_tensors_missing_and_misshapen(void)
{
    static const char *const names[] = { "bert_odd", "distilbert_two", "electra_projected", "deberta_conv", "deberta_own" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct copy copy = copy_read(names[i]);
        for (size_t t = 0; t < copy.count; t++) {
            struct copy without = copy;
            struct tensor_out last = copy.tensors[copy.count - 1], dropped = copy.tensors[t];
            without.count--;
            copy.tensors[t] = last;
            copy_write(&without);
            copy.tensors[t] = dropped;
            bool word = strstr(dropped.name, "word_embeddings") != NULL;  // without it the file's prefix is not known
            char *text = memory_printf("tensor \"%s\" is missing", word ? "" : dropped.name);
            EXPECT(refused(EX_DATAERR, word ? "word_embeddings.weight\" is missing" : text));
            free(text);

            size_t elements = 1;
            for (size_t d = 0; d < dropped.rank; d++)
                elements *= (size_t)dropped.shape[d];
            size_t row = elements / (size_t)dropped.shape[0];
            float *longer = memory_alloc(elements + row, sizeof *longer);
            copy.tensors[t].data = longer;
            copy.tensors[t].shape[0]++;
            copy_write(&copy);
            copy.tensors[t] = dropped;
            text = memory_printf("tensor \"%s\" has shape [%lld", dropped.name, (long long)dropped.shape[0] + 1);
            EXPECT(refused(EX_DATAERR, text));
            free(text);
            free(longer);
        }
        copy_free(&copy);
    }
}

/* Goal: what is no directory, has no config, a broken one, or no weights, has its exit code and line. */
static void test_directories(void)
{
    int code;
    char *config = memory_printf("%s/config.json", directory), *weights = memory_printf("%s/model.safetensors", directory);
    unlink(config);
    unlink(weights);
    EXPECT(!encoder_is(directory));
    EXPECT(refused(EX_NOINPUT, "it has no config.json"));
    directory_write("config.json", "{\"model_type\": \"bert\"", 21);
    EXPECT(!encoder_is(directory));
    EXPECT(refused(EX_DATAERR, "config.json"));
    static const char not_a_number[] = "{\"model_type\": \"bert\", \"layer_norm_eps\": NaN}";
    directory_write("config.json", not_a_number, sizeof not_a_number - 1);
    EXPECT(refused(EX_DATAERR, "config.json"));
    directory_write("config.json", "[1]", 3);
    EXPECT(!encoder_is(directory));
    EXPECT(refused(EX_DATAERR, "is no encoder"));
    directory_write("config.json", bert_json, sizeof bert_json - 1);
    EXPECT(encoder_is(directory));
    EXPECT(refused(EX_NOINPUT, "safetensors"));
    directory_write("model.safetensors", "nonsense", 8);
    EXPECT(refused(EX_DATAERR, "model.safetensors"));
    EXPECT(!encoder_is("tests/parity/llama/gqa_f32"));
    EXPECT(!encoder_is("no such directory"));
    stderr_hold();
    EXPECT(encoder_open(config, TENSOR_TYPE_COUNT, false, pool, &code) == NULL);
    EXPECT_INT(code, EX_DATAERR);
    EXPECT(encoder_open("no such directory", TENSOR_TYPE_COUNT, false, pool, &code) == NULL);
    EXPECT_INT(code, EX_NOINPUT);
    stderr_release();
    free(config);
    free(weights);
}

/* The key of the directory, or of a fixture.  Valid until two calls later. */
static const char *key_of(const char *path, enum tensor_type quant)
{
    static char keys[2][KEY_SIZE];
    static int turn;
    int code;
    struct encoder *encoder = encoder_open(path, quant, false, pool, &code);
    char *key = keys[turn++ % 2];
    snprintf(key, KEY_SIZE, "%s", encoder != NULL ? encoder_key(encoder) : "");
    encoder_close(encoder);
    return key;
}

/* Goal: the key is of the numbers: types, names and what is not used do not count; one element, the config and a rounding do. */
static void test_key(void)
{
    struct copy copy = copy_read("bert_old");  // BF16, with a prefix and the old names of norms
    char original[KEY_SIZE];
    snprintf(original, sizeof original, "%s", key_of("tests/parity/encoders/bert_old", TENSOR_TYPE_COUNT));
    for (size_t i = 0; i < copy.count; i++) {
        struct tensor_out *tensor = &copy.tensors[i];
        char *name = memory_text(tensor->name + (strncmp(tensor->name, "bert.", 5) == 0 ? 5 : 0));
        char *gamma = strstr(name, "gamma"), *renamed = gamma ? memory_printf("%.*sweight", (int)(gamma - name), name) : name;
        free((void *)tensor->name);
        tensor->name = renamed;
        if (gamma)
            free(name);
    }
    copy.tensors = memory_grow(copy.tensors, copy.count + 1, sizeof *copy.tensors);
    copy.tensors[copy.count++] = (struct tensor_out){ .name = memory_text("cls.predictions.bias"), .rank = 1, .shape = { 3 },
                                                      .data = memory_alloc(3, sizeof(float)) };
    copy_write(&copy);
    EXPECT_TEXT(key_of(directory, TENSOR_TYPE_COUNT), original);
    EXPECT(strcmp(key_of(directory, TENSOR_Q8_0), original) != 0);
    EXPECT(strcmp(key_of(directory, TENSOR_Q8_0), key_of(directory, TENSOR_NF4)) != 0);
    ((float *)copy.tensors[0].data)[0] += 1.0f;
    copy_write(&copy);
    EXPECT(strcmp(key_of(directory, TENSOR_TYPE_COUNT), original) != 0);
    ((float *)copy.tensors[0].data)[0] -= 1.0f;
    char *relu = strstr(copy.config, "\"relu\"");
    EXPECT(relu != NULL);
    memcpy(relu, "\"tanh\"", 6);
    copy_write(&copy);
    EXPECT(strcmp(key_of(directory, TENSOR_TYPE_COUNT), original) != 0);
    copy_free(&copy);
}

/* ---- rounding on load ---- */

/* The rows of a matrix as rounding on load leaves them. */
static void round_rows(const struct tensor_out *tensor, enum tensor_type quant)
{
    size_t N = (size_t)tensor->shape[0], K = (size_t)tensor->shape[1];
    for (size_t n = 0; n < N; n++) {
        float *row = (float *)tensor->data + n * K;
        struct packed packed;
        packed_init(&packed, quant, 1, K);
        packed_quantise_panel(&packed, 0, (const float *const[PANEL]){ row });
        packed_get_row(&packed, 0, row);
        packed_free(&packed);
    }
}

static void run_and_close(struct encoder *encoder, float *hidden, float *scores)
{
    static const int32_t tokens[] = { 4, 9, 22, 5, 5, 17, 8, 11, 20, 6, 13 };
    struct encoder_text text = { tokens, NULL, sizeof tokens / sizeof *tokens };
    encoder_run(encoder, &text, 1, hidden);
    encoder_scores(encoder, &text, 1, scores);
    encoder_close(encoder);
}

/* Goal: rounding on load gives the numbers of the model whose layers' matrices, and no others, were rounded beforehand. */
static void test_rounding_is_of_the_layers_matrices(void)
{
    static const char *const names[] = { "bert_odd", "electra_projected", "deberta_v3" };
    static const enum tensor_type quants[] = { TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_NF4 };
    enum { T = 11, C_MAX = 16 };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (size_t q = 0; q < sizeof quants / sizeof *quants; q++) {
            int code;
            float hidden[2][T * C_MAX] = { { 0 } }, scores[2][4] = { { 0 } };
            char *path = memory_printf("tests/parity/encoders/%s", names[i]);
            setenv("VAS_KERNELS", kernels_named("avx2") != NULL ? "avx2" : "portable", 1);  // rows are not rounded
            struct encoder *rounded = encoder_open(path, quants[q], false, pool, &code);
            unsetenv("VAS_KERNELS");
            struct encoder *best = encoder_open(path, quants[q], false, pool, &code);
            free(path);
            struct copy copy = copy_read(names[i]);
            for (size_t t = 0; t < copy.count; t++) {
                const struct tensor_out *tensor = &copy.tensors[t];
                if (tensor->rank == 2 && (strstr(tensor->name, ".layer.") != NULL || strstr(tensor->name, "project") != NULL))
                    round_rows(tensor, quants[q]);
            }
            copy_write(&copy);
            copy_free(&copy);
            struct encoder *beforehand = encoder_open(directory, TENSOR_TYPE_COUNT, false, pool, &code);
            EXPECT(rounded != NULL && beforehand != NULL && best != NULL);
            if (rounded == NULL || beforehand == NULL || best == NULL)
                return;
            run_and_close(rounded, hidden[0], scores[0]);
            run_and_close(beforehand, hidden[1], scores[1]);
            EXPECT_FLOATS(hidden[0], hidden[1], T * C_MAX, 1e-4);
            EXPECT_FLOATS(scores[0], scores[1], 4, 1e-4);
            run_and_close(best, hidden[0], scores[0]);
            EXPECT_FLOATS(hidden[0], hidden[1], T * C_MAX, 0.1);
        }
    }
}

int main(void)
{
    log_open("test", 0);
    test_directory(directory, sizeof directory);
    pool = pool_open(2);
    RUN(test_defaults);
    RUN(test_labels);
    RUN(test_config_refusals);
    RUN(test_sizes);
    RUN(test_tensors_missing_and_misshapen);
    RUN(test_directories);
    RUN(test_key);
    RUN(test_rounding_is_of_the_layers_matrices);
    pool_close(pool);
    directory_write("config.json", "", 0);
    char *files[] = { memory_printf("%s/config.json", directory), memory_printf("%s/model.safetensors", directory) };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        unlink(files[i]);
        free(files[i]);
    }
    rmdir(directory);
    return tests_end();
}
