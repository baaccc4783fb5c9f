/*
 * scorer_model.c - scores by a reward model: a Hugging Face directory whose architecture is *ForSequenceClassification.
 *
 *     encoder   BERT, DistilBERT, RoBERTa, ELECTRA, DeBERTa-v2 and v3; reads prompt and response as a pair of texts
 *     decoder   the families of model.h; reads one text, and the score where its last token is
 *
 * The score is the head's number as it comes out (a logit), of the chosen label (label.h).  How the two texts become one input
 * is join.h; when nobody says, "last-turn" for encoders, which is how OpenAssistant's reward models were trained on and are
 * asked for HH dialogues, and for decoders the chat format of their template if chat.h knows it, else "concat".
 *
 * A score does not depend on the other texts of its batch, so batches are made as they run best: as many tokens as take about half
 * a second.  Decoders run the beginning that the responses to one prompt share once.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "model/encoder.h"
#include "model/model.h"
#include "score/join.h"
#include "score/label.h"
#include "score/scorer_backend.h"

enum {
    ENCODER_TOKENS_MAX = 4096,    // of one input, which is run at once; DeBERTa itself sets no limit
    DECODER_TOKENS_MAX = 8192,    // of one input, where the model has a longer context
    BATCH_TOKENS_MIN = 32,        // what is not worth splitting further
    ENCODER_BATCH_TOKENS = 4096,
    DECODER_BATCH_ROWS = 256,     // the kernels gain nothing from more
    DECODER_BATCH_PIECES = 16,    // inputs in one batch: bounds the pages that are not full
};
static const double batch_s = 0.5, serve_s = 0.25;

struct reward_model {
    struct encoder *encoder;  // one of the two
    struct model *decoder;
    struct tokenizer *tokenizer;
    struct join join;
    struct label label;
    char *quant;              // NULL: as in the file
    bool has_types;           // the encoder tells the first text from the second
    int32_t pad;              // the score is read at the last token that is not this one; -1: at the last
    size_t label_count;
    double token_s;           // what a token took lately, seconds; 0: not known
    double served_s;          // when wait was last called
    bool told_cut;
    bool (*wait)(void *context);
    void *wait_context;
};

/* ---- opening ---- */

static const char *model_source(const struct scorer_options *options)
{
    return options->model;
}

/* Whether the directory says that it has a classification head, so that a large model without one is not read in vain. */
static int architecture_check(const json_t *config, const char *path)
{
    static const char wanted[] = "ForSequenceClassification";
    const char *name = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    size_t size = name != NULL ? strlen(name) : 0;
    if (name == NULL || (size >= strlen(wanted) && strcmp(name + size - strlen(wanted), wanted) == 0))
        return 0;
    log_error("\"%s\" cannot be a reward model: it is %.100s, which has no sequence-classification head", path, name);
    log_hint("heads that are read: *ForSequenceClassification of BERT, DistilBERT, RoBERTa, ELECTRA, DeBERTa-v2 and the decoder "
             "families");
    return -1;
}

/* CHAT_FORMAT_COUNT: the model has no chat template, or none that is known. */
static enum chat_format template_format(const struct tokenizer *tokenizer, const char *path, char **system)
{
    enum chat_format format = chat_format_of(tokenizer, system);
    if (format == CHAT_FORMAT_COUNT && tokenizer_chat_template(tokenizer) != NULL)
        log_event("the chat template of \"%s\" is none of those that are known", path);
    return format;
}

static int join_open(struct reward_model *reward, const struct scorer_options *options, bool is_encoder)
{
    enum truncation truncation = TRUNCATE_LEFT;
    if (options->truncate != NULL && (truncation = truncation_from_name(options->truncate)) == TRUNCATION_COUNT) {
        log_error("truncation is \"%.100s\", must be left, right or refuse", options->truncate);
        return -1;
    }
    char *system = NULL, *name = NULL;
    enum chat_format format = is_encoder ? CHAT_FORMAT_COUNT : template_format(reward->tokenizer, options->model, &system);
    if (options->join != NULL)
        name = memory_text(options->join);
    else if (is_encoder)
        name = memory_text("last-turn");
    else
        name = format == CHAT_FORMAT_COUNT ? memory_text("concat") : memory_printf("chat:%s", chat_format_name(format));
    int status = join_init(&reward->join, name);
    reward->join.truncation = truncation;
    if (reward->join.kind == JOIN_CHAT && reward->join.chat == format)
        reward->join.system = system;
    else
        free(system);
    free(name);
    return status;
}

static int network_open(struct reward_model *reward, const struct scorer_options *options, bool is_encoder, const json_t *config)
{
    int code = EX_USAGE;
    const enum tensor_type quant = model_quant_from_name(options->quant);
    if (options->quant != NULL && quant == TENSOR_TYPE_COUNT) {
        log_error("quantisation is \"%s\", must be bf16, q8_0, q4_0 or nf4", options->quant);
        return code;
    }
    size_t position_max, token_max = is_encoder ? ENCODER_TOKENS_MAX : DECODER_TOKENS_MAX;
    if (is_encoder) {
        reward->encoder = encoder_open(options->model, quant, options->keep_packed, options->pool, &code);
        if (reward->encoder == NULL)
            return code;
        reward->label_count = encoder_label_count(reward->encoder);
        reward->join.vocab_size = encoder_vocab_size(reward->encoder);
        position_max = encoder_position_max(reward->encoder);
        reward->has_types = encoder_type_count(reward->encoder) >= 2;
    } else {
        reward->decoder = model_open_quantised(options->model, quant, options->keep_packed, options->pool, &code);
        if (reward->decoder == NULL)
            return code;
        reward->label_count = model_label_count(reward->decoder);
        reward->join.vocab_size = (size_t)model_config(reward->decoder)->vocab_size;
        position_max = (size_t)model_config(reward->decoder)->position_max;
        const json_t *pad = json_object_get(config, "pad_token_id");
        reward->pad = json_is_integer(pad) && json_integer_value(pad) <= INT32_MAX ? (int32_t)json_integer_value(pad) : -1;
    }
    reward->join.token_max = position_max < token_max ? position_max : token_max;
    reward->join.around = is_encoder;
    if (reward->label_count > 0)
        return EX_OK;
    log_error("\"%s\" cannot be a reward model: it has no sequence-classification head", options->model);
    return EX_DATAERR;
}

static void model_scorer_close(void *state)
{
    struct reward_model *reward = state;
    join_free(&reward->join);
    encoder_close(reward->encoder);
    model_close(reward->decoder);
    tokenizer_close(reward->tokenizer);
    free(reward->quant);
    free(reward);
}

static void *model_scorer_open(const struct scorer_options *options, int *code)
{
    const char *path = options->model;
    if (!file_is_directory(path)) {
        *code = file_exists(path) ? EX_DATAERR : EX_NOINPUT;
        log_error("could not open reward model \"%s\": %s", path, file_exists(path) ? "not a directory" : "no such directory");
        return NULL;
    }
    struct reward_model *reward = memory_alloc(1, sizeof *reward);
    reward->wait = options->wait;
    reward->wait_context = options->wait_context;
    reward->pad = -1;
    *code = EX_DATAERR;
    bool is_encoder = encoder_is(path);
    char *config_path = memory_printf("%s/config.json", path);
    json_t *config = json_read(config_path);
    free(config_path);
    if (config == NULL || architecture_check(config, path) != 0)
        goto fail;
    if ((reward->tokenizer = tokenizer_open(path, code)) == NULL)
        goto fail;
    *code = EX_USAGE;
    if (join_open(reward, options, is_encoder) != 0)
        goto fail;
    if ((*code = network_open(reward, options, is_encoder, config)) != EX_OK)
        goto fail;
    *code = EX_USAGE;
    if (label_choose(&reward->label, options->label, config, reward->label_count, path) != 0)
        goto fail;
    json_decref(config);
    reward->join.tokenizer = reward->tokenizer;
    reward->quant = options->quant != NULL ? memory_text(options->quant) : NULL;
    log_event("reward model \"%s\" kind=%s join=%s truncate=%s tokens_max=%zu", path, is_encoder ? "encoder" : "decoder",
              reward->join.name, truncation_name(reward->join.truncation), reward->join.token_max);
    *code = EX_OK;
    return reward;

fail:
    json_decref(config);
    model_scorer_close(reward);
    return NULL;
}

static void model_describe(const void *state, json_t *spec)
{
    const struct reward_model *reward = state;
    json_t *labels = json_array();
    json_array_append_new(labels, json_integer((json_int_t)reward->label.plus));
    if (reward->label.minus != LABEL_NONE)
        json_array_append_new(labels, json_integer((json_int_t)reward->label.minus));
    json_object_set_new(spec, "model",
                        json_string(reward->encoder != NULL ? encoder_key(reward->encoder) : model_key(reward->decoder)));
    json_object_set_new(spec, "tokenizer", json_string(tokenizer_key(reward->tokenizer)));
    json_object_set_new(spec, "labels", labels);
    json_object_set_new(spec, "join", json_string(reward->join.name));
    json_object_set_new(spec, "truncate", json_string(truncation_name(reward->join.truncation)));
    json_object_set_new(spec, "tokens_max", json_integer((json_int_t)reward->join.token_max));
    if (reward->join.system != NULL)
        json_object_set_new(spec, "system", json_string(reward->join.system));
    if (reward->quant != NULL)
        json_object_set_new(spec, "quant", json_string(reward->quant));
}

/* ---- pace ---- */

/* Serves whoever waits, now and then; false: give up. */
static bool serve(struct reward_model *reward)
{
    double now_s = clock_s();
    if (reward->wait == NULL || now_s - reward->served_s < serve_s)
        return true;
    reward->served_s = now_s;
    return reward->wait(reward->wait_context);
}

/* Tokens of a batch that takes about batch_s. */
static size_t batch_tokens(const struct reward_model *reward, size_t max)
{
    double tokens = reward->token_s > 0 ? batch_s / reward->token_s : BATCH_TOKENS_MIN;
    return tokens >= (double)max ? max : tokens <= BATCH_TOKENS_MIN ? BATCH_TOKENS_MIN : (size_t)tokens;
}

static void batch_took(struct reward_model *reward, size_t tokens, double begun_s)
{
    reward->token_s = fmax(clock_s() - begun_s, 1e-9) / (double)tokens;
}

/* ---- scoring ---- */

/* An input on its way to its result. */
struct item {
    const char *prompt;
    struct join_input input;
    struct scorer_result *result;
};

static void item_finish(const struct reward_model *reward, const struct item *item, const float *scores)
{
    double plus = scores[reward->label.plus], minus = reward->label.minus != LABEL_NONE ? scores[reward->label.minus] : 0;
    item->result->score = plus - minus;
    item->result->status = SCORER_SCORED;
    if (!isfinite(plus - minus))
        scorer_fail(item->result, "the reward model's score is %g", plus - minus);
}

/* False when waiting was given up; what has no result then has none. */
static bool encoder_run_items(struct reward_model *reward, const struct item *items, size_t count)
{
    struct encoder_text *texts = memory_alloc(count, sizeof *texts);
    float *scores = memory_alloc(count * reward->label_count, sizeof *scores);
    bool goes_on = true;
    for (size_t i = 0; i < count && (goes_on = serve(reward)); ) {
        size_t token_max = batch_tokens(reward, ENCODER_BATCH_TOKENS), tokens = 0, n = 0;
        while (i + n < count && (n == 0 || tokens + items[i + n].input.ids.count <= token_max)) {
            const struct join_input *input = &items[i + n].input;
            bool has_types = reward->has_types && input->types.count > 0;
            texts[n++] = (struct encoder_text){ input->ids.at, has_types ? input->types.at : NULL, input->ids.count };
            tokens += input->ids.count;
        }
        double begun_s = clock_s();
        encoder_scores(reward->encoder, texts, n, scores);
        batch_took(reward, tokens, begun_s);
        for (size_t k = 0; k < n; k++)
            item_finish(reward, &items[i + k], scores + k * reward->label_count);
        i += n;
    }
    free(scores);
    free(texts);
    return goes_on;
}

/* Rows of several sequences on their way through a decoder. */
struct rows {
    struct reward_model *reward;
    struct cache *cache;
    struct row at[DECODER_BATCH_ROWS];
    size_t count;
    struct piece {
        int32_t sequence;
        size_t last;              // row
        const struct item *item;  // that ends there; NULL: the sequence goes on
    } pieces[DECODER_BATCH_PIECES];
    size_t piece_count;
    float *hidden;                // (DECODER_BATCH_ROWS, C)
    float *scores;                // (N) labels
};

static bool rows_run(struct rows *rows)
{
    struct reward_model *reward = rows->reward;
    if (!serve(reward))
        return false;
    if (rows->count == 0)
        return true;
    double begun_s = clock_s();
    model_forward(reward->decoder, rows->cache, rows->at, rows->count, rows->hidden);
    size_t C = (size_t)model_config(reward->decoder)->channel_count;
    for (size_t i = 0; i < rows->piece_count; i++) {
        const struct piece *piece = &rows->pieces[i];
        row_keep(rows->cache, piece->last);
        if (piece->item == NULL)
            continue;
        model_scores(reward->decoder, rows->hidden + piece->last * C, 1, rows->scores);
        item_finish(reward, piece->item, rows->scores);
        sequence_close(rows->cache, piece->sequence);
    }
    batch_took(reward, rows->count, begun_s);
    rows->count = rows->piece_count = 0;
    return true;
}

/* Appends tokens to a sequence; full batches are run.  item: the one that ends with them, or NULL. */
static bool rows_add(struct rows *rows, int32_t sequence, const int32_t *tokens, size_t T, const struct item *item)
{
    for (size_t t = 0; t < T; ) {
        size_t row_max = batch_tokens(rows->reward, DECODER_BATCH_ROWS);
        if (rows->count >= row_max || rows->piece_count == DECODER_BATCH_PIECES) {
            if (!rows_run(rows))
                return false;
            continue;
        }
        size_t first = rows->count;
        while (t < T && rows->count < row_max) {
            int32_t parent = rows->count == first ? ROW_CACHED : (int32_t)rows->count - 1;
            rows->at[rows->count++] = (struct row){ sequence, tokens[t++], parent };
        }
        rows->pieces[rows->piece_count++] = (struct piece){ sequence, rows->count - 1, t == T ? item : NULL };
    }
    return true;
}

static int by_prompt(const void *left, const void *right)
{
    const struct item *a = left, *b = right;
    int order = strcmp(a->prompt, b->prompt);
    return order != 0 ? order : (a->result > b->result) - (a->result < b->result);
}

/* Tokens that these items begin with, all of them; each keeps one of its own. */
static size_t shared_tokens(const struct item *items, size_t count)
{
    size_t shared = items[0].input.ids.count - 1;
    for (size_t i = 1; i < count; i++) {
        const struct token_list *ids = &items[i].input.ids;
        size_t t = 0;
        while (t < shared && t + 1 < ids->count && ids->at[t] == items[0].input.ids.at[t])
            t++;
        shared = t;
    }
    return shared;
}

/* Items with one prompt. */
static bool rows_add_group(struct rows *rows, const struct item *items, size_t count)
{
    size_t shared = count > 1 ? shared_tokens(items, count) : 0;
    int32_t root = sequence_open(rows->cache);
    bool goes_on = shared == 0 || (rows_add(rows, root, items[0].input.ids.at, shared, NULL) && rows_run(rows));
    for (size_t i = 0; i < count && goes_on; i++) {
        const struct token_list *ids = &items[i].input.ids;
        goes_on = rows_add(rows, sequence_fork(rows->cache, root), ids->at + shared, ids->count - shared, &items[i]);
    }
    sequence_close(rows->cache, root);
    return goes_on;
}

static bool decoder_run_items(struct reward_model *reward, struct item *items, size_t count)
{
    size_t token_max = 0;
    for (size_t i = 0; i < count; i++) {
        struct token_list *ids = &items[i].input.ids;
        while (ids->count > 1 && ids->at[ids->count - 1] == reward->pad)
            ids->count--;
        token_max = ids->count > token_max ? ids->count : token_max;
    }
    qsort(items, count, sizeof *items, by_prompt);

    struct rows *rows = memory_alloc(1, sizeof *rows);
    rows->reward = reward;
    // A shared beginning, an input that goes through several batches, and one batch whose pieces begin and end within pages.
    rows->cache = cache_open(reward->decoder, 2 * (token_max + CACHE_PAGE_POSITIONS) + DECODER_BATCH_ROWS
                                                  + 2 * DECODER_BATCH_PIECES * CACHE_PAGE_POSITIONS);
    rows->hidden = memory_alloc(DECODER_BATCH_ROWS * (size_t)model_config(reward->decoder)->channel_count, sizeof(float));
    rows->scores = memory_alloc(reward->label_count, sizeof(float));
    bool goes_on = true;
    for (size_t i = 0, n; i < count && goes_on; i += n) {
        for (n = 1; i + n < count && strcmp(items[i].prompt, items[i + n].prompt) == 0; n++)
            ;
        goes_on = rows_add_group(rows, items + i, n);
    }
    goes_on = goes_on && rows_run(rows);
    free(rows->scores);
    free(rows->hidden);
    cache_close(rows->cache);
    free(rows);
    return goes_on;
}

/* Says once that inputs lose tokens. */
static void tell_cut(struct reward_model *reward, const struct join_input *input)
{
    if (input->cut == 0 || reward->told_cut)
        return;
    log_event("an input of %zu tokens is longer than the reward model reads: truncate=%s leaves out %zu (said once)",
              input->ids.count + input->cut, truncation_name(reward->join.truncation), input->cut);
    reward->told_cut = true;
}

static int model_score(void *state, const struct scorer_text *texts, size_t count, struct scorer_result *results)
{
    struct reward_model *reward = state;
    struct item *items = memory_alloc(count, sizeof *items);
    size_t item_count = 0;
    bool goes_on = true;
    for (size_t i = 0; i < count && (goes_on = serve(reward)); i++) {
        struct item *item = &items[item_count];
        char reason[256];
        *item = (struct item){ .prompt = texts[i].prompt, .result = &results[i] };
        if (join_encode(&reward->join, &texts[i], &item->input, reason) == 0) {
            tell_cut(reward, &item->input);
            item_count++;
        } else {
            scorer_fail(&results[i], "%s", reason);
            join_input_free(&item->input);
        }
    }
    if (goes_on && item_count > 0) {
        if (reward->encoder != NULL)
            encoder_run_items(reward, items, item_count);
        else
            decoder_run_items(reward, items, item_count);
    }
    for (size_t i = 0; i < item_count; i++)
        join_input_free(&items[i].input);
    free(items);
    return 0;
}

const struct scorer_backend scorer_model = {
    .kind = "model",
    .source = model_source,
    .open = model_scorer_open,
    .close = model_scorer_close,
    .describe = model_describe,
    .score = model_score,
};
