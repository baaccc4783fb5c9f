/*
 * Values of candidates through their text, against the plain way: the whole text tokenized and run anew.  A base policy with one
 * trained tokenizer, a value model with another; random weights.
 */
#include <math.h>

#include "sample/generate.h"
#include "sample/text_values.h"
#include "text/retokenize.h"
#include "../check.h"
#include "../unit/tiny_model.h"

static const char base_text[] = "One day, Mia the fox ran to the park. The caf\303\251 was open.\n\n"
    "Tom had a red ball and a big dog.\n\n";
static const char value_text[] = "The dog ran. The fox ran, and the ball ran too. Parking there, open caf\303\251s there.\n\n";

enum { K = 6, STEPS = 24, TEXTS = 5 };

struct fixture {
    struct pool *pool;
    struct tokenizer *base, *own;
    struct model *policy, *value;
};

static struct fixture fixture_open(size_t threads)
{
    struct fixture fixture = { .pool = pool_open(threads), .base = tokenizer_train(base_text, sizeof base_text - 1, 310),
                               .own = tokenizer_train(value_text, sizeof value_text - 1, 290) };
    struct model_config config = tiny_config;
    config.position_max = 160;
    config.vocab_size = (int64_t)tokenizer_vocab_size(fixture.base);
    fixture.policy = tiny_model(&config, 1, fixture.pool);
    config.vocab_size = (int64_t)tokenizer_vocab_size(fixture.own);
    config.position_max = 120;
    fixture.value = tiny_model(&config, 2, fixture.pool);
    CHECK(strcmp(tokenizer_key(fixture.base), tokenizer_key(fixture.own)) != 0);
    return fixture;
}

static void fixture_close(struct fixture *fixture)
{
    model_close(fixture->policy);
    model_close(fixture->value);
    tokenizer_close(fixture->base);
    tokenizer_close(fixture->own);
    pool_close(fixture->pool);
}

/* Bytes of a character, common words, the end token: whatever the numbers say. */
static int32_t any_token(const struct fixture *fixture, size_t text, size_t step, size_t k)
{
    uint64_t number = (text * 7919 + step * 104729 + k * 1299709) * 2654435761u;
    return (int32_t)((number >> 7) % tokenizer_vocab_size(fixture->base));
}

/* The value model's tokens of prompt and tokens. */
static struct token_list plain_ids(const struct fixture *fixture, const char *prompt, const int32_t *tokens, size_t count)
{
    struct buffer text = { 0 };
    struct text_stream stream = { .started = true };
    bool ended = false;
    buffer_append(&text, prompt, strlen(prompt));
    for (size_t t = 0; t < count; t++) {
        if (tokenizer_is_stop(fixture->base, tokens[t]))
            ended = true;
        else
            text_stream_push(&stream, fixture->base, tokens[t], &text);
    }
    struct token_list ids = { 0 };
    retokenize_text(fixture->own, text.data, text.size, ended, &ids);
    free(text.data);
    return ids;
}

/* The value of prompt and tokens the plain way; NaN where they do not fit. */
static float plain_value(const struct fixture *fixture, const char *prompt, const int32_t *tokens, size_t count)
{
    struct token_list ids = plain_ids(fixture, prompt, tokens, count);
    const struct model_config *config = model_config(fixture->value);
    float value = NAN;
    if (ids.count <= (size_t)config->position_max) {
        struct cache *cache = cache_open(fixture->value, 2 * (size_t)config->position_max);
        float *last = memory_alloc((size_t)config->channel_count, sizeof *last);
        model_extend(fixture->value, cache, sequence_open(cache), ids.at, ids.count, NULL, last);
        model_values(fixture->value, last, 1, &value);
        free(last);
        cache_close(cache);
    }
    free(ids.at);
    return value;
}

static bool same_bits(float a, float b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

static const char *const prompts[TEXTS] = { "Mia the fox", "The dog ran to the caf\303\251.", "T", "Mia the fox",
                                            "One day, a big red ball." };

/* Several texts grow side by side; every value is that of a fresh pass, with much room in the cache and with little. */
static void test_against_fresh_passes(void)
{
    struct fixture fixture = fixture_open(2);
    for (size_t room = 0; room < 2; room++) {
        struct text_values *values = text_values_open(fixture.value, fixture.own, fixture.base, room ? 4096 : 0);
        struct value_text *texts[TEXTS];
        int32_t tokens[TEXTS][STEPS + 1];
        for (size_t i = 0; i < TEXTS; i++)
            texts[i] = value_text_open(values, prompts[i], false);
        size_t different = 0, compared = 0;
        for (size_t step = 0; step < STEPS; step++) {
            int32_t candidates[TEXTS][K];
            float got[TEXTS][K];
            struct value_ask asks[TEXTS];
            for (size_t i = 0; i < TEXTS; i++) {
                for (size_t k = 0; k < K; k++)
                    candidates[i][k] = any_token(&fixture, i, step, k);
                asks[i] = (struct value_ask){ .text = texts[i], .candidates = candidates[i], .K = K, .values = got[i] };
            }
            text_values_get(values, asks, TEXTS);
            for (size_t i = 0; i < TEXTS; i++) {
                for (size_t k = 0; k < K; k++) {
                    tokens[i][step] = candidates[i][k];
                    different += !same_bits(got[i][k], plain_value(&fixture, prompts[i], tokens[i], step + 1));
                    compared += !isnan(got[i][k]);
                }
                tokens[i][step] = any_token(&fixture, i, step, K + 1);  // often none of the candidates
                value_text_push(texts[i], tokens[i][step]);
            }
        }
        EXPECT_INT(different, 0);
        EXPECT(compared > TEXTS * K * STEPS / 2);
        for (size_t i = 0; i < TEXTS; i++)
            value_text_close(texts[i]);
        text_values_close(values);
    }
    fixture_close(&fixture);
}

/* More texts than the cache holds: some are run again from their beginning, with the same values. */
static void test_small_cache(void)
{
    enum { MANY = 60, ROUNDS = 3, TWO = 2 };
    struct fixture fixture = fixture_open(1);
    struct text_values *values = text_values_open(fixture.value, fixture.own, fixture.base, 0);
    struct value_text *texts[MANY];
    char many[MANY][128];
    int32_t tokens[MANY][ROUNDS];
    size_t different = 0;
    for (size_t i = 0; i < MANY; i++) {
        snprintf(many[i], sizeof many[i],
                 "%zu: The dog ran to the caf\303\251 and the fox ran, and the ball ran too, to the park and there", i);
        texts[i] = value_text_open(values, many[i], false);
    }
    for (size_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < MANY; i++) {
            int32_t candidates[TWO] = { any_token(&fixture, i, round, 0), any_token(&fixture, i, round, 1) };
            float got[TWO];
            text_values_get(values, &(struct value_ask){ .text = texts[i], .candidates = candidates, .K = TWO, .values = got }, 1);
            for (size_t k = 0; k < TWO; k++) {
                tokens[i][round] = candidates[k];
                different += !same_bits(got[k], plain_value(&fixture, many[i], tokens[i], round + 1));
            }
            value_text_push(texts[i], tokens[i][round]);
        }
    }
    EXPECT_INT(different, 0);
    for (size_t i = 0; i < MANY; i++)
        value_text_close(texts[i]);
    text_values_close(values);
    fixture_close(&fixture);
}

/* A fork goes its own way; the text that it came from does not notice. */
static void test_fork(void)
{
    struct fixture fixture = fixture_open(1);
    struct text_values *values = text_values_open(fixture.value, fixture.own, fixture.base, 1024);
    struct value_text *text = value_text_open(values, prompts[1], false);
    int32_t candidates[K], tokens[2];
    float first[K], again[K], forked[K];
    for (size_t k = 0; k < K; k++)
        candidates[k] = any_token(&fixture, 1, 0, k);
    text_values_get(values, &(struct value_ask){ .text = text, .candidates = candidates, .K = K, .values = first }, 1);
    struct value_text *fork = value_text_fork(text);
    tokens[0] = candidates[2];
    value_text_push(fork, tokens[0]);
    struct value_ask both[] = { { .text = fork, .candidates = candidates, .K = K, .values = forked },
                                { .text = text, .candidates = candidates, .K = K, .values = again } };
    text_values_get(values, both, 2);
    EXPECT(memcmp(first, again, sizeof first) == 0);
    for (size_t k = 0; k < K; k++) {
        tokens[1] = candidates[k];
        EXPECT(same_bits(forked[k], plain_value(&fixture, prompts[1], tokens, 2)));
    }
    value_text_close(text);
    value_text_close(fork);
    text_values_close(values);
    fixture_close(&fixture);
}

/* A rollout in another tokenizer's tokens: one text, the end token where it was stopped, P the prompt's share. */
static void test_retokenize(void)
{
    struct fixture fixture = fixture_open(1);
    struct token_list ids = { 0 }, whole = { 0 };
    size_t P = retokenize_rollout(fixture.own, "The dog", " ran there", true, &ids);
    tokenizer_encode(fixture.own, "The dog ran there", 17, ENCODE_SPECIAL, &whole);
    EXPECT_INT(ids.count, whole.count + 1);
    EXPECT(memcmp(ids.at, whole.at, whole.count * sizeof *whole.at) == 0);
    EXPECT_INT(ids.at[ids.count - 1], tokenizer_end(fixture.own));
    whole.count = 0;
    tokenizer_encode(fixture.own, "The dog", 7, ENCODE_SPECIAL, &whole);
    EXPECT_INT(P, whole.count);
    ids.count = 0;
    EXPECT_INT(retokenize_rollout(fixture.own, "", "T", false, &ids), 1);
    free(ids.at);
    free(whole.at);
    fixture_close(&fixture);
}

/* Steering by such a value model: any batch gives the same responses; without its tokenizer it is refused. */
static void test_generate(void)
{
    struct fixture fixture = fixture_open(2);
    struct value_model value = { .name = "value", .model = fixture.value, .tokenizer_key = tokenizer_key(fixture.own), .beta = 2 };
    struct generate_options options = {
        .base_name = "base", .base = fixture.policy, .tokenizer = fixture.base, .values = &value, .value_count = 1, .candidates = K,
        .max_new_tokens = STEPS, .pool = fixture.pool, .in_order = true,
    };
    int32_t all[2][TEXTS * 2][STEPS];
    size_t counts[2][TEXTS * 2];
    double kl = 0;
    for (size_t run = 0; run < 2; run++) {
        options.batch = run ? 7 : 1;
        int code;
        value.tokenizer = NULL;
        EXPECT(generator_open(&options, &code) == NULL);
        value.tokenizer = fixture.own;
        struct generator *generator = generator_open(&options, &code);
        for (size_t j = 0; j < TEXTS * 2; j++) {
            struct token_list prompt = { 0 };
            tokenizer_encode(fixture.base, prompts[j / 2], strlen(prompts[j / 2]), ENCODE_SPECIAL, &prompt);
            generator_add(generator, &(struct generate_job){
                .prompt_tokens = prompt.at, .prompt_count = prompt.count, .prompt = prompts[j / 2], .prompt_key = prompts[j / 2],
                .sample = (uint32_t)j, .max_new_tokens = STEPS, .sampling = { .temperature = 1, .top_p = 1 },
            });
            free(prompt.at);
        }
        while (generator_step(generator))
            ;
        struct response response;
        for (size_t j = 0; generator_next(generator, &response); j++) {
            EXPECT(response.failure == NULL);
            counts[run][j] = response.count;
            memcpy(all[run][j], response.tokens, response.count * sizeof(int32_t));
            kl += response.kl;
        }
        generator_close(generator);
    }
    EXPECT(kl > 0.1);
    for (size_t j = 0; j < TEXTS * 2; j++)
        EXPECT(counts[0][j] == counts[1][j] && memcmp(all[0][j], all[1][j], counts[0][j] * sizeof(int32_t)) == 0);
    fixture_close(&fixture);
}

static size_t plain_size(const struct fixture *fixture, const char *prompt, const int32_t *tokens, size_t count)
{
    struct token_list ids = plain_ids(fixture, prompt, tokens, count);
    free(ids.at);
    return ids.count;
}

/* Where the text fills the value model's context a response ends; a prompt that does so alone fails, with the model's name. */
static void test_long_texts(void)
{
    enum { SAMPLES = 8 };
    struct fixture fixture = fixture_open(2);
    struct value_model value = { .name = "value", .model = fixture.value, .tokenizer_key = tokenizer_key(fixture.own),
                                 .tokenizer = fixture.own, .beta = 2 };
    struct generate_options options = {
        .base_name = "base", .base = fixture.policy, .tokenizer = fixture.base, .values = &value, .value_count = 1, .candidates = K,
        .max_new_tokens = STEPS, .pool = fixture.pool, .in_order = true, .batch = SAMPLES,
    };
    size_t context = (size_t)model_config(fixture.value)->position_max;
    char prompt[2][1024] = { "", "" };
    while (plain_size(&fixture, prompt[0], NULL, 0) < context - 10)
        strcat(prompt[0], "a big red dog ");
    while (plain_size(&fixture, prompt[1], NULL, 0) < context + 2)
        strcat(prompt[1], "a big red dog ");
    int code;
    struct generator *generator = generator_open(&options, &code);
    for (size_t j = 0; j < 2 * SAMPLES; j++) {
        struct token_list tokens = { 0 };
        tokenizer_encode(fixture.base, prompt[j / SAMPLES], strlen(prompt[j / SAMPLES]), ENCODE_SPECIAL, &tokens);
        generator_add(generator, &(struct generate_job){
            .prompt_tokens = tokens.at, .prompt_count = tokens.count, .prompt = prompt[j / SAMPLES],
            .prompt_key = prompt[j / SAMPLES], .sample = (uint32_t)j, .max_new_tokens = STEPS,
            .sampling = { .temperature = 1, .top_p = 1 },
        });
        free(tokens.at);
    }
    while (generator_step(generator))
        ;
    struct response response;
    size_t ended = 0, j = 0;
    for (; generator_next(generator, &response); j++) {
        if (j < SAMPLES) {
            EXPECT(response.failure == NULL && response.count > 0 && isfinite(response.kl));
            // The last token may have been no candidate.
            EXPECT(plain_size(&fixture, prompt[0], response.tokens, response.count - 1) <= context);
            ended += response.count < STEPS && !response.stopped;
        } else {
            EXPECT_TEXT(response.failure, "its text does not fit value model \"value\" (context 120) at response token 0");
        }
    }
    EXPECT_INT(j, 2 * SAMPLES);
    EXPECT(ended > SAMPLES / 2);
    generator_close(generator);
    fixture_close(&fixture);
}

/* To a job whose own beta for it is 0 it does not matter that the text is too long for the value model. */
static void test_long_text_unheard(void)
{
    struct fixture fixture = fixture_open(2);
    struct value_model values[] = {
        { .name = "heard", .model = fixture.policy, .tokenizer_key = tokenizer_key(fixture.base), .beta = 1 },
        { .name = "value", .model = fixture.value, .tokenizer_key = tokenizer_key(fixture.own), .tokenizer = fixture.own,
          .beta = 2 },
    };
    struct generate_options options = {
        .base_name = "base", .base = fixture.policy, .tokenizer = fixture.base, .values = values, .candidates = K,
        .max_new_tokens = STEPS, .pool = fixture.pool, .batch = 1,
    };
    char prompt[1024] = "";
    while (plain_size(&fixture, prompt, NULL, 0) < (size_t)model_config(fixture.value)->position_max + 2)
        strcat(prompt, "a big red dog ");
    struct token_list tokens = { 0 };
    tokenizer_encode(fixture.base, prompt, strlen(prompt), ENCODE_SPECIAL, &tokens);
    int32_t sampled[2][STEPS] = { 0 };
    for (options.value_count = 1; options.value_count <= 2; options.value_count++) {
        int code;
        struct generator *generator = generator_open(&options, &code);
        generator_add(generator, &(struct generate_job){
            .prompt_tokens = tokens.at, .prompt_count = tokens.count, .prompt = prompt, .prompt_key = prompt,
            .max_new_tokens = STEPS, .sampling = { .temperature = 1, .top_p = 1 }, .betas = (double[]){ 1, 0 },
        });
        while (generator_step(generator))
            ;
        struct response response;
        EXPECT(generator_next(generator, &response) && response.failure == NULL && response.kl > 0);
        memcpy(sampled[options.value_count - 1], response.tokens, response.count * sizeof(int32_t));
        generator_close(generator);
    }
    EXPECT(memcmp(sampled[0], sampled[1], sizeof sampled[0]) == 0);
    free(tokens.at);
    fixture_close(&fixture);
}

int main(void)
{
    RUN(test_against_fresh_passes);
    RUN(test_small_cache);
    RUN(test_fork);
    RUN(test_retokenize);
    RUN(test_generate);
    RUN(test_long_texts);
    RUN(test_long_text_unheard);
    return tests_end();
}
