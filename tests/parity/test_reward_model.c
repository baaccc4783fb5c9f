/*
 * Scores of reward models against transformers: every way of joining prompt and response, both kinds of network, labels,
 * truncation.  tests/parity/hh/ is made by make_hh_models.py.
 */
#include <sysexits.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/progress.h"
#include "model/encoder.h"
#include "score/join.h"
#include "score/scorer.h"
#include "../unit/stderr_text.h"
#include "../check.h"

static struct pool *pool;
static json_t *cases;
enum { CASES_MAX = 64 };

static const char encoder[] = "tests/parity/hh/reward", decoder[] = "tests/parity/hh/chat_reward";

static struct scorer_options options_of(const char *model, const char *label, const char *join)
{
    struct scorer_options options = SCORER_DEFAULTS;
    options.model = model;
    options.label = label;
    options.join = join;
    options.pool = pool;
    return options;
}

static size_t read_cases(struct scorer_text *texts)
{
    size_t count = json_array_size(cases);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(cases, i);
        texts[i] = (struct scorer_text){ json_string_value(json_object_get(item, "prompt")),
                                         json_string_value(json_object_get(item, "response")) };
    }
    return count;
}

/* The recorded logits of a case: of label plus, less that of label minus unless it is -1. */
static double recorded(size_t i, const char *field, int plus, int minus)
{
    const json_t *logits = json_object_get(json_array_get(cases, i), field);
    double score = json_number_value(json_array_get(logits, (size_t)plus));
    return minus < 0 ? score : score - json_number_value(json_array_get(logits, (size_t)minus));
}

/* Scores all cases and compares them with a recorded field. */
static void compare(struct scorer_options options, const char *field, int plus, int minus)
{
    int code;
    struct scorer_text texts[CASES_MAX];
    struct scorer_result results[CASES_MAX];
    size_t count = read_cases(texts);
    struct scorer *scorer = scorer_open(&options, &code);
    EXPECT(scorer != NULL && count > 10);
    if (scorer == NULL)
        return;
    EXPECT_INT(scorer_score(scorer, texts, count, results), 0);
    for (size_t i = 0; i < count; i++) {
        double expected = recorded(i, field, plus, minus);
        if (results[i].status != SCORER_SCORED || !(fabs(results[i].score - expected) <= 1e-4 * fmax(1, fabs(expected))))
            TEST_FAIL("%s, case %zu: status %d score %.7g, transformers has %.7g %s", field, i, results[i].status, results[i].score,
                      expected, results[i].status == SCORER_FAILED ? results[i].reason : "");
    }
    scorer_close(scorer);
}

/* Goal: a DeBERTa-v3's scores of pairs and of one text are transformers'. */
static void test_encoder(void)
{
    compare(options_of(encoder, NULL, NULL), "last_turn", 0, -1);
    compare(options_of(encoder, NULL, "last-turn"), "last_turn", 0, -1);
    compare(options_of(encoder, NULL, "pair"), "pair", 0, -1);
    compare(options_of(encoder, NULL, "concat"), "concat", 0, -1);
}

/* Goal: a Llama's scores, by its chat template, as one text and by a template of ours, are transformers'. */
static void test_decoder(void)
{
    compare(options_of(decoder, "not-harmful", NULL), "chat", 1, -1);
    compare(options_of(decoder, "1", "chat:chatml"), "chat", 1, -1);
    compare(options_of(decoder, "not-harmful-harmful", "concat"), "chat_concat", 1, 0);
    compare(options_of(decoder, "0", "Q: {prompt}\\nA: {response}<|endoftext|>"), "template", 0, -1);
}

/* Goal: --truncate right is transformers' truncation=True, whichever text is the longer one. */
static void test_truncation(void)
{
    struct scorer_text texts[CASES_MAX];
    size_t count = read_cases(texts);
    static const struct { const char *name, *field; } joins[] = { { "pair", "right_40" }, { "concat", "right_40_text" } };
    int code;
    struct tokenizer *tokenizer = tokenizer_open(encoder, &code);
    struct encoder *network = encoder_open(encoder, TENSOR_TYPE_COUNT, false, pool, &code);
    EXPECT(tokenizer != NULL && network != NULL);
    for (size_t k = 0; k < 2 && tokenizer != NULL && network != NULL; k++) {
        struct join join;
        EXPECT_INT(join_init(&join, joins[k].name), 0);
        join.truncation = TRUNCATE_RIGHT;
        join.tokenizer = tokenizer;
        join.token_max = 40;
        join.vocab_size = encoder_vocab_size(network);
        for (size_t i = 0; i < count; i++) {
            struct join_input input;
            char reason[256];
            float score = 0;
            EXPECT_INT(join_encode(&join, &texts[i], &input, reason), 0);
            encoder_scores(network, &(struct encoder_text){ input.ids.at, NULL, input.ids.count }, 1, &score);
            double expected = recorded(i, joins[k].field, 0, -1);
            if (!(fabs(score - expected) <= 1e-4 * fmax(1, fabs(expected))))
                TEST_FAIL("%s, case %zu: %.7g, transformers has %.7g", joins[k].field, i, score, expected);
            join_input_free(&input);
        }
        join_free(&join);
    }
    encoder_close(network);
    tokenizer_close(tokenizer);
}

/* Goal: a score is the same to the bit alone, in any batch, in any order and with any number of threads. */
static void test_batches(void)
{
    static const char *const models[] = { encoder, decoder };
    for (size_t k = 0; k < 2; k++) {
        struct scorer_options options = options_of(models[k], "0", NULL);
        struct scorer_text texts[CASES_MAX], turned[CASES_MAX];
        struct scorer_result results[CASES_MAX], again[CASES_MAX], alone;
        size_t count = read_cases(texts);
        int code;
        struct scorer *scorer = scorer_open(&options, &code);
        struct pool *one = pool_open(1);
        options.pool = one;
        struct scorer *single = scorer_open(&options, &code);
        EXPECT(scorer != NULL && single != NULL);
        for (size_t i = 0; i < count; i++)
            turned[i] = texts[count - 1 - i];
        for (int turn = 0; turn < 3; turn++)  // the pace is found meanwhile, so batches differ
            EXPECT_INT(scorer_score(scorer, texts, count, results), 0);
        EXPECT_INT(scorer_score(single, turned, count, again), 0);
        for (size_t i = 0; i < count; i++) {
            EXPECT_INT(scorer_score(single, &texts[i], 1, &alone), 0);
            EXPECT(results[i].status == SCORER_SCORED && alone.status == SCORER_SCORED);
            if (alone.score != results[i].score || again[count - 1 - i].score != results[i].score)
                TEST_FAIL("%s, case %zu: %.9g alone, %.9g in a batch, %.9g in another", models[k], i, alone.score, results[i].score,
                          again[count - 1 - i].score);
        }
        scorer_close(scorer);
        scorer_close(single);
        pool_close(one);
    }
}

static bool wait_no_longer(void *context)
{
    ++*(int *)context;
    return false;
}

/* Goal: who waits is asked before work begins; told to give up, the scorer leaves what has no score. */
static void test_wait_is_given_up(void)
{
    static const char *const models[] = { encoder, decoder };
    for (size_t k = 0; k < 2; k++) {
        int asked = 0, code;
        struct scorer_options options = options_of(models[k], "0", NULL);
        options.wait = wait_no_longer;
        options.wait_context = &asked;
        struct scorer *scorer = scorer_open(&options, &code);
        struct scorer_result result;
        EXPECT_INT(scorer_score(scorer, &(struct scorer_text){ "a", "b" }, 1, &result), 0);
        EXPECT_INT(asked, 1);
        EXPECT_INT(result.status, SCORER_LEFT);
        scorer_close(scorer);
    }
}

/* Goal: what decides the scores is the spec: weights, tokenizer, labels, join, truncation, rounding. */
static void test_spec(void)
{
    struct scorer_options options[] = {
        options_of(decoder, "0", NULL), options_of(decoder, "harmful", "chat:chatml"), options_of(decoder, "1", NULL),
        options_of(decoder, "1-0", NULL), options_of(decoder, "0", "concat"), options_of(decoder, "0", NULL),
        options_of(decoder, "0", NULL), options_of(encoder, NULL, "concat"),
    };
    options[5].truncate = "refuse";
    options[6].quant = "q8_0";
    enum { COUNT = sizeof options / sizeof options[0] };
    struct scorer *scorers[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        int code;
        scorers[i] = scorer_open(&options[i], &code);
        EXPECT(scorers[i] != NULL);
        for (size_t k = 0; k < i && scorers[i] != NULL && scorers[k] != NULL; k++) {
            bool same = strcmp(scorer_spec(scorers[i]), scorer_spec(scorers[k])) == 0;
            if (same != (i == 1 && k == 0))
                TEST_FAIL("specs %zu and %zu: %s, %s", k, i, scorer_spec(scorers[k]), scorer_spec(scorers[i]));
        }
    }
    json_t *spec = json_loads(scorer_spec(scorers[3]), 0, NULL), *labels = json_pack("[i, i]", 1, 0);
    EXPECT_TEXT(json_string_value(json_object_get(spec, "kind")), "model");
    EXPECT(json_equal(json_object_get(spec, "labels"), labels));
    EXPECT_TEXT(json_string_value(json_object_get(spec, "join")), "chat:chatml");
    EXPECT_TEXT(json_string_value(json_object_get(spec, "truncate")), "left");
    EXPECT_INT(strlen(json_string_value(json_object_get(spec, "model"))), 32);
    EXPECT_INT(strlen(json_string_value(json_object_get(spec, "tokenizer"))), 32);
    json_decref(labels);
    json_decref(spec);
    for (size_t i = 0; i < COUNT; i++)
        scorer_close(scorers[i]);
}

/* Goal: what cannot be a reward model, and options that mean nothing, are one line and the right code. */
static void test_refusals(void)
{
    static const struct { const char *model, *label, *join, *truncate, *quant; int code; const char *says; } bad[] = {
        { "/nowhere", NULL, NULL, NULL, NULL, EX_NOINPUT, "could not open reward model \"/nowhere\": no such directory\n" },
        { "tests/parity/hh/scores.json", NULL, NULL, NULL, NULL, EX_DATAERR, "not a directory\n" },
        { "tests/parity", NULL, NULL, NULL, NULL, EX_DATAERR, "tests/parity/config.json\"" },
        { "tests/parity/hh/base", NULL, NULL, NULL, NULL, EX_DATAERR,
          "it is LlamaForCausalLM, which has no sequence-classification head\n" },
        { decoder, NULL, NULL, NULL, NULL, EX_USAGE, "has several labels: 0 \"harmful\", 1 \"not-harmful\"\n" },
        { decoder, "kind", NULL, NULL, NULL, EX_USAGE, "has no label \"kind\", it has: 0 \"harmful\", 1 \"not-harmful\"\n" },
        { encoder, NULL, "pairs", NULL, NULL, EX_USAGE, "join is \"pairs\"" },
        { encoder, NULL, NULL, "middle", NULL, EX_USAGE, "truncation is \"middle\", must be left, right or refuse\n" },
        { encoder, NULL, NULL, NULL, "q3", EX_USAGE, "quantisation is \"q3\", must be bf16, q8_0, q4_0 or nf4\n" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct scorer_options options = options_of(bad[i].model, bad[i].label, bad[i].join);
        options.truncate = bad[i].truncate;
        options.quant = bad[i].quant;
        int code = 0;
        stderr_hold();
        struct scorer *scorer = scorer_open(&options, &code);
        const char *said = stderr_release();
        if (scorer != NULL || code != bad[i].code || strstr(said, bad[i].says) == NULL)
            TEST_FAIL("case %zu: code %d, said %s", i, code, said);
    }
    struct scorer_options options = options_of(NULL, "0", NULL);
    options.exec = "cat";
    int code = 0;
    stderr_hold();
    EXPECT(scorer_open(&options, &code) == NULL);
    EXPECT(strstr(stderr_release(), "label, join, truncate and quant are options of a reward model") != NULL);
    EXPECT_INT(code, EX_USAGE);
}

/* Copies files of a directory into a temporary one; returns it. */
static const char *copy_of(const char *directory, const char *const *files)
{
    static char out[32];
    test_directory(out, sizeof out);
    for (; *files != NULL; files++) {
        size_t size;
        char *from = memory_printf("%s/%s", directory, *files), *to = memory_printf("%s/%s", out, *files);
        char *content = file_read(from, &size);
        if (content == NULL || file_write(to, content, size) != 0)
            abort();
        free(content);
        free(to);
        free(from);
    }
    return out;
}

static void remove_copy(const char *directory, const char *const *files)
{
    for (; *files != NULL; files++) {
        char *path = memory_printf("%s/%s", directory, *files);
        unlink(path);
        free(path);
    }
    rmdir(directory);
}

/* Goal: a template in a list of several is read as one that stands alone. */
static void test_template_list(void)
{
    static const char *const files[] = { "config.json", "model.safetensors", "tokenizer.json", NULL };
    static const char *const all[] = { "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", NULL };
    static const char config[] =
        "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"x\"},{\"name\":\"default\",\"template\":\""
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}\"}]}";
    const char *directory = copy_of(decoder, files);
    char *path = memory_printf("%s/tokenizer_config.json", directory);
    EXPECT_INT(file_write(path, config, strlen(config)), 0);
    struct scorer_options options = options_of(directory, "0", NULL);
    int code;
    struct scorer *scorer = scorer_open(&options, &code);
    EXPECT(scorer != NULL && strstr(scorer_spec(scorer), "\"join\":\"chat:chatml\"") != NULL);
    scorer_close(scorer);
    free(path);
    remove_copy(directory, all);
}

/* Goal: a directory without a tokenizer, without weights or with a broken config is refused, not used. */
static void test_incomplete_directories(void)
{
    static const char *const parts[][4] = {
        { "config.json", "model.safetensors", NULL }, { "config.json", "tokenizer.json", "tokenizer_config.json", NULL },
        { "model.safetensors", "tokenizer.json", NULL },
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const char *directory = copy_of(encoder, parts[i]);
        struct scorer_options options = options_of(directory, NULL, NULL);
        int code = 0;
        stderr_hold();
        struct scorer *scorer = scorer_open(&options, &code);
        const char *said = stderr_release();
        if (scorer != NULL || (code != EX_DATAERR && code != EX_NOINPUT) || said[0] == '\0')
            TEST_FAIL("case %zu: code %d, said %s", i, code, said);
        scorer_close(scorer);
        remove_copy(directory, parts[i]);
    }
}

/* Goal: weights that give no finite score fail the response, with a reason. */
static void test_not_finite(void)
{
    static const char *const files[] = { "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", NULL };
    const char *directory = copy_of(encoder, files);
    char *path = memory_printf("%s/model.safetensors", directory);
    size_t size;
    char *content = file_read(path, &size);
    // the classifier's bias: float16, {"classifier.bias":{..."data_offsets":[0,2]}} comes first in the data
    uint64_t header_size;
    memcpy(&header_size, content, sizeof header_size);
    const char *entry = strstr(content + 8, "\"classifier.bias\""), *offsets = entry != NULL
        ? strstr(entry, "\"data_offsets\":[") : NULL;
    EXPECT(offsets != NULL);
    if (offsets != NULL) {
        size_t at = strtoul(offsets + strlen("\"data_offsets\":["), NULL, 10);
        memcpy(content + 8 + header_size + at, "\x00\x7e", 2);  // NaN
        EXPECT_INT(file_write(path, content, size), 0);
        struct scorer_options options = options_of(directory, NULL, NULL);
        int code;
        struct scorer *scorer = scorer_open(&options, &code);
        EXPECT(scorer != NULL);
        struct scorer_result result;
        if (scorer != NULL) {
            EXPECT_INT(scorer_score(scorer, &(struct scorer_text){ "a", "b" }, 1, &result), 0);
            EXPECT_INT(result.status, SCORER_FAILED);
            EXPECT(strstr(result.reason, "the reward model's score is ") != NULL && strstr(result.reason, "nan") != NULL);
        }
        scorer_close(scorer);
    }
    free(content);
    free(path);
    remove_copy(directory, files);
}

static double bert_score(const char *directory)
{
    struct scorer_options options = options_of(directory, NULL, "pair");
    struct scorer_result result = { .score = NAN };
    int code;
    struct scorer *scorer = scorer_open(&options, &code);
    EXPECT(scorer != NULL);
    if (scorer != NULL)
        EXPECT_INT(scorer_score(scorer, &(struct scorer_text){ "a b c", "d e" }, 1, &result), 0);
    scorer_close(scorer);
    return result.score;
}

/* Goal: a BERT whose config leaves the number of segments to transformers' default, 2, tells response from prompt. */
static void test_default_segments(void)
{
    static const char *const files[] = { "config.json", "model.safetensors", NULL };
    static const char *const all[] = { "config.json", "model.safetensors", "vocab.txt", NULL };
    static const char vocabulary[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\ne\n";
    const char *directory = copy_of("tests/parity/encoders/bert_odd", files);
    char *config_path = memory_printf("%s/config.json", directory), *vocabulary_path = memory_printf("%s/vocab.txt", directory);
    EXPECT_INT(file_write(vocabulary_path, vocabulary, strlen(vocabulary)), 0);
    double stated = bert_score(directory);
    json_t *config = json_read(config_path);
    EXPECT_INT(json_integer_value(json_object_get(config, "type_vocab_size")), 2);
    json_object_del(config, "type_vocab_size");
    char *text = json_text(config);
    EXPECT_INT(file_write(config_path, text, strlen(text)), 0);
    EXPECT(isfinite(stated) && bert_score(directory) == stated);
    free(text);
    json_decref(config);
    free(vocabulary_path);
    free(config_path);
    remove_copy(directory, all);
}

int main(void)
{
    log_open("test_reward_model", getenv("VERBOSE") != NULL ? 0 : -1);
    pool = pool_open(2);
    cases = json_read("tests/parity/hh/scores.json");
    if (cases == NULL || json_array_size(cases) > CASES_MAX)
        return 1;
    RUN(test_encoder);
    RUN(test_decoder);
    RUN(test_truncation);
    RUN(test_batches);
    RUN(test_wait_is_given_up);
    RUN(test_spec);
    RUN(test_template_list);
    RUN(test_refusals);
    RUN(test_incomplete_directories);
    RUN(test_not_finite);
    RUN(test_default_segments);
    json_decref(cases);
    pool_close(pool);
    return tests_end();
}
