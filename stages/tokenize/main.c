/*
 * tokenize - texts in, prompts out.
 *
 *     takes   files of prompts or of stored rollouts, or standard input
 *     gives   one prompt frame for each text; for stored rollouts also a rollout and, with a score, a scored frame
 *
 * With --encode and --decode it only turns text into ids and back, a line each; with --train-vocab it makes a tokenizer.
 */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/effort.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/option.h"
#include "base/philox.h"
#include "base/progress.h"
#include "base/stop.h"
#include "model/weights.h"
#include "text/prompt.h"
#include "text/tokenizer.h"
#include "tokenize/reader.h"
#include "wire/edge.h"
#include "wire/remote_model.h"

struct options {
    const char *model, *format, *field, *chat, *split, *endpoint, *policy, *reward, *output;
    int64_t max_tokens, train_vocab;
    double eval_fraction;
    bool encode, decode, end_token;
    char *const *files;
    size_t file_count;
};

static struct options options_read(int argc, char **argv)
{
    static struct options options = { .field = "prompt", .policy = "stored", .reward = "stored", .max_tokens = 0 };
    options.endpoint = getenv("VAS_STORE");
    const struct option_spec specs[] = {
        { 'm', "model", "DIR|FILE", OPTION_TEXT, &options.model, 0, 0,
          "whose tokenizer to use: model directory, tokenizer file or\nGGUF file, or store:NAME of one that the store shares" },
        { 's', "store", "ENDPOINT", OPTION_TEXT, &options.endpoint, 0, 0,
          "store to give the prompts to (default VAS_STORE; without: frames on stdout)" },
        EDGE_KEY_OPTIONS,
        { 0, "format", "jsonl|text|lines|hh|rollouts", OPTION_CHOICE, &options.format, 0, 0,
          "jsonl: JSON lines; text: a text a line; lines: empty ones too;\n"
          "hh: HH dialogues; rollouts: JSON lines of {\"prompt\", \"response\",\n"
          "\"score\"} (default: text for *.txt, else jsonl); files may be gzipped" },
        { 0, "field", "NAME", OPTION_TEXT, &options.field, 0, 0,
          "where a JSON line has its text, or its messages\n"
          "(default prompt)" },
        CHAT_OPTION(options.chat),
        { 0, "split", "NAME", OPTION_NAME, &options.split, 1, NAME_BYTES,
          "split of all prompts (default: the line's \"split\", else train)" },
        { 0, "eval-fraction", "P", OPTION_NUMBER, &options.eval_fraction, 0, 1,
          "share of the prompts that go to split eval, chosen by\ntheir text, where the line names no split (default 0)" },
        { 0, "max-prompt-tokens", "N", OPTION_INT, &options.max_tokens, 1, 1048576,
          "leave out longer prompts, and say how many (default: no limit)" },
        { 0, "end-token", NULL, OPTION_FLAG, &options.end_token, 0, 0,
          "end every text with the end token: documents for train --objective lm" },
        { 0, "policy", "NAME", OPTION_NAME, &options.policy, 1, NAME_BYTES,
          "rollouts: name of the policy they came from (default stored)" },
        { 0, "reward", "NAME", OPTION_NAME, &options.reward, 1, NAME_BYTES,
          "rollouts: name of the reward their scores come from (default stored)" },
        { 0, NULL, NULL, OPTION_HEADING, NULL, 0, 0, "instead of frames" },
        { 0, "encode", NULL, OPTION_FLAG, &options.encode, 0, 0, "lines of text to JSON arrays of token ids" },
        { 0, "decode", NULL, OPTION_FLAG, &options.decode, 0, 0, "JSON arrays of token ids to text, a line each" },
        { 0, "train-vocab", "N", OPTION_INT, &options.train_vocab, 258, 1000000,
          "train a byte-level BPE tokenizer of N ids on the texts" },
        { 'o', "output", "DIR", OPTION_TEXT, &options.output, 0, 0, "where --train-vocab writes it" },
    };
    static const struct option_usage usage = {
        .program = "vas-tokenize",
        .example = "tokenize -m model.gguf prompts.jsonl | tap",
        .synopsis = "tokenize -m MODEL [-s ENDPOINT] [options] [FILE...]",
        .summary = "Turns texts into prompts: frames for a store or a pipe.",
        .exit_codes = "  0   every line became a prompt\n  64  usage\n  65  a line could not be used (the others were)\n"
                      "  66  a file is missing\n  69  no store answers\n"
                      "  73  a model is where --train-vocab would write\n  74  output could not be written\n"
                      "  75  stopped before the end\n  77  the store refuses this worker's key\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    options.files = argv + first;
    options.file_count = (size_t)(argc - first);
    if (options.model == NULL && options.train_vocab == 0)
        options_refuse("-m is missing: whose tokenizer?");
    if (options.train_vocab != 0 && options.output == NULL)
        options_refuse("--train-vocab needs -o DIR");
    if (options.encode + options.decode + (options.train_vocab != 0) > 1)
        options_refuse("only one of --encode, --decode and --train-vocab can be asked for");
    return options;
}

static enum reader_format format_of(const struct options *options, const char *path)
{
    static const char *const names[] = { "jsonl", "text", "lines", "hh", "rollouts" };
    if (options->format == NULL) {
        size_t size = strlen(path);
        return size > 4 && strcmp(path + size - 4, ".txt") == 0 ? READER_TEXT : READER_JSONL;
    }
    size_t i = 0;
    while (strcmp(options->format, names[i]) != 0)
        i++;
    return (enum reader_format)i;
}

/* EX_OK; EX_DATAERR when the line is left out, logged; any other code ends the reading. */
typedef int record_giver(void *context, const struct record *record);

/* Calls give for every record of every file.  Returns the exit code. */
static int read_files(const struct options *options, record_giver *give, void *context)
{
    static char *const standard_input[] = { "-" };
    char *const *files = options->file_count ? options->files : standard_input;
    size_t file_count = options->file_count ? options->file_count : 1;
    int code = EX_OK;
    for (size_t i = 0; i < file_count; i++) {
        int open_code;
        struct reader *reader = reader_open(files[i], format_of(options, files[i]), options->field, &open_code);
        if (reader == NULL)
            return open_code;
        struct record record;
        int given = EX_OK;
        int64_t left_out = 0;
        while ((given == EX_OK || given == EX_DATAERR) && !stop_requested() && reader_next(reader, &record)) {
            given = give(context, &record);
            left_out += given == EX_DATAERR;
        }
        left_out += reader_bad_lines(reader);
        if (left_out > 0) {
            log_error("left out %lld line%s of \"%s\"", (long long)left_out, left_out > 1 ? "s" : "",
                      strcmp(files[i], "-") != 0 ? files[i] : "standard input");
            code = EX_DATAERR;
        }
        if (reader_failed(reader))
            code = EX_DATAERR;
        reader_close(reader);
        if (given != EX_OK && given != EX_DATAERR)
            return given;
    }
    return stop_requested() ? EX_TEMPFAIL : code;
}

/* Exit codes as prompt_make's, logged. */
static int record_encode(const struct prompt_style *style, const struct record *record, struct buffer *text, struct token_list *ids)
{
    char reason[256];
    struct prompt_source source = { record->prompt, record->prompt_size, record->messages };
    int code = prompt_make(style, &source, text, ids, reason);
    if (code != EX_OK)
        log_error("cannot use \"%s\" line %lld: %s", record->path, (long long)record->line, reason);
    if (code == EX_USAGE)
        log_hint(CHAT_HINT);
    return code;
}

/* ---- frames ---- */

enum { SAMPLES_MAX = 1048576 };  // of a prompt: "sample" in schemas/frames.def is below it

/* A sample number that a stored response has. */
struct taken {
    uint64_t prompt, sample;  // the map's key: the number of prompt_key, the sample
    uint64_t response;        // the number of its prompt and text
};

struct giver {
    const struct options *options;
    const struct prompt_style *style;
    struct edge *edge;
    struct progress progress;
    int64_t given, too_long;
    struct buffer prompt;
    struct token_list prompt_tokens, response_tokens;
    struct map taken;  // of all stored responses
    struct arena arena;
};

static const char *split_of(const struct options *options, const struct record *record, const char *prompt_key)
{
    if (options->split != NULL)
        return options->split;
    if (record->split != NULL)
        return record->split;
    double place = philox_uniform(0, PHILOX_DATA, number_from_key(prompt_key), 0, 0);
    return place < options->eval_fraction ? "eval" : "train";
}

static int leave_out(const struct record *record, const char *why)
{
    log_error("cannot use \"%s\" line %lld: %s", record->path, (long long)record->line, why);
    return EX_DATAERR;
}

static int leave_out_large(const struct record *record, const char *what, size_t bytes, size_t tokens)
{
    log_error("cannot use \"%s\" line %lld: its %s has %zu bytes and %zu tokens, a frame carries at most %d and %d",
              record->path, (long long)record->line, what, bytes, tokens, TEXT_BYTES, TOKENS_COUNT);
    return EX_DATAERR;
}

/*
 * The same response to a prompt is the same sample, another response another one: the first that is free from the number that its
 * text has.  -1 when the prompt has no free one.
 */
static int64_t sample_of(struct giver *giver, const char *prompt_key, const char *response)
{
    char key[KEY_SIZE];
    key_from_texts(key, prompt_key, response, NULL);
    struct taken wanted = { .prompt = number_from_key(prompt_key), .response = number_from_key(key) };
    for (uint64_t i = 0; i < SAMPLES_MAX; i++) {
        wanted.sample = (wanted.response + i) % SAMPLES_MAX;
        struct taken *taken = map_find(&giver->taken, &wanted, offsetof(struct taken, response));
        if (taken == NULL) {
            taken = memory_alloc(1, sizeof *taken);
            *taken = wanted;
            map_add(&giver->taken, taken, offsetof(struct taken, response), taken);
        }
        if (taken->response == wanted.response)
            return (int64_t)wanted.sample;
    }
    return -1;
}

static void taken_free(struct map *map)
{
    struct taken *taken;
    for (size_t at = 0; (taken = map_next(map, &at)) != NULL; )
        free(taken);
    map_free(map);
}

/* A stored response: what it was sampled with is not known, only what it says. */
static int give_rollout(struct giver *giver, const struct record *record, const struct frame *prompt)
{
    giver->response_tokens.count = 0;
    tokenizer_encode(giver->style->tokenizer, record->response, record->response_size, 0, &giver->response_tokens);
    int32_t end = record->cut ? -1 : tokenizer_end(giver->style->tokenizer);
    if (end >= 0)
        token_list_add(&giver->response_tokens, end);  // a stored response is a whole one unless its line says otherwise
    if (giver->response_tokens.count == 0)
        return leave_out(record, record->cut ? "its response is empty" :
                                 "its response is empty and the tokenizer has no end token");
    if (record->response_size > TEXT_BYTES || giver->response_tokens.count > TOKENS_COUNT)
        return leave_out_large(record, "response", record->response_size, giver->response_tokens.count);
    struct frame frame = frame_extended(FRAME_rollout, prompt);
    struct frame_rollout *rollout = &frame.rollout;
    rollout->response = arena_text(&giver->arena, record->response, record->response_size);
    rollout->sample = sample_of(giver, rollout->prompt_key, rollout->response);
    if (rollout->sample < 0) {
        log_error("cannot use \"%s\" line %lld: its prompt has %d other responses, which is the most", record->path,
                  (long long)record->line, SAMPLES_MAX);
        return EX_DATAERR;
    }
    rollout->policy = giver->options->policy;
    rollout->response_tokens = (struct tokens){ giver->response_tokens.at, giver->response_tokens.count };
    rollout->stopped = end >= 0;
    if (edge_give(giver->edge, &frame) != 0)
        return EX_IOERR;
    if (isnan(record->score))
        return 0;
    struct frame scored = frame_extended(FRAME_scored, &frame);
    scored.scored.reward = giver->options->reward;
    scored.scored.score = record->score;
    return edge_give(giver->edge, &scored) == 0 ? 0 : EX_IOERR;
}

static int give_record(void *context, const struct record *record)
{
    struct giver *giver = context;
    const struct options *options = giver->options;
    arena_reset(&giver->arena);
    int made = record_encode(giver->style, record, &giver->prompt, &giver->prompt_tokens);
    if (made != EX_OK)
        return made;
    if (options->end_token && tokenizer_end(giver->style->tokenizer) >= 0)
        token_list_add(&giver->prompt_tokens, tokenizer_end(giver->style->tokenizer));
    if (giver->prompt_tokens.count == 0)
        return leave_out(record, "its prompt is empty and the tokenizer has no begin token");
    if (options->max_tokens != 0 && (int64_t)giver->prompt_tokens.count > options->max_tokens) {
        giver->too_long++;
        return 0;
    }
    if (giver->prompt.size > TEXT_BYTES || giver->prompt_tokens.count > TOKENS_COUNT)
        return leave_out_large(record, "prompt", giver->prompt.size, giver->prompt_tokens.count);
    struct frame frame = frame_make(FRAME_prompt);
    struct frame_prompt *prompt = &frame.prompt;
    char key[KEY_SIZE];
    prompt->prompt = giver->prompt.data;
    prompt->tokenizer = tokenizer_key(giver->style->tokenizer);
    key_from_texts(key, prompt->tokenizer, prompt->prompt, NULL);
    prompt->prompt_key = key;
    prompt->split = split_of(options, record, key);
    prompt->prompt_tokens = (struct tokens){ giver->prompt_tokens.at, giver->prompt_tokens.count };

    bool rollout_only = record->response != NULL && edge_is_pipe(giver->edge);  // its frames contain the prompt
    if (!rollout_only && edge_give(giver->edge, &frame) != 0)
        return EX_IOERR;
    if (record->response != NULL) {
        int code = give_rollout(giver, record, &frame);
        if (code != 0)
            return code;
    }
    progress_set(&giver->progress, ++giver->given);
    return 0;
}

static int give_frames(const struct options *options, const struct prompt_style *style)
{
    json_t *json = json_pack("{s:s}", "tokenizer", tokenizer_key(style->tokenizer));
    if (options->format != NULL && strcmp(options->format, "rollouts") == 0) {
        json_object_set_new(json, "policy", json_string(options->policy));
        json_object_set_new(json, "reward", json_string(options->reward));
    }
    char *settings = json_text(json);
    json_decref(json);
    int code;
    struct edge *edge = edge_open(&(struct edge_options){ .endpoint = options->endpoint, .stage = "tokenize",
                                      .settings = settings, .takes_nothing = true, .hold_max = 1 }, &code);
    free(settings);
    if (edge == NULL)
        return code;

    struct giver giver = { .options = options, .style = style, .edge = edge };
    arena_init(&giver.arena, "record", 64 << 20);
    progress_start(&giver.progress, "tokenized", "prompts", 0);
    enum effort before = effort_enter(EFFORT_COMPUTE);
    code = read_files(options, give_record, &giver);
    effort_enter(before);
    if (code == EX_OK || giver.given > 0)
        progress_end(&giver.progress);
    if (giver.too_long > 0)
        log_event("left out %lld prompts of more than %lld tokens", (long long)giver.too_long, (long long)options->max_tokens);

    int edge_code = edge_close(edge, stop_requested() ? EDGE_STOPPED : EDGE_END);
    taken_free(&giver.taken);
    arena_free(&giver.arena);
    free(giver.prompt.data);
    free(giver.prompt_tokens.at);
    free(giver.response_tokens.at);
    return edge_code != EX_OK ? edge_code : code;  // the edge knows whether starting again helps
}

/* ---- lines of ids ---- */

/* What --encode and --decode keep from one record to the next. */
struct liner {
    const struct prompt_style *style;
    struct buffer text;
    struct token_list ids;
};

static int encode_record(void *context, const struct record *record)
{
    struct liner *liner = context;
    int code = record_encode(liner->style, record, &liner->text, &liner->ids);
    if (code != EX_OK)
        return code;
    putchar('[');
    for (size_t i = 0; i < liner->ids.count; i++)
        printf(i ? ", %d" : "%d", liner->ids.at[i]);
    printf("]\n");
    return ferror(stdout) ? EX_IOERR : EX_OK;
}

/* The ids of a line; -1 when one is not in the vocabulary, logged. */
static int ids_from_json(struct liner *liner, const json_t *array, const struct record *record)
{
    int64_t vocab_size = (int64_t)tokenizer_vocab_size(liner->style->tokenizer);
    liner->ids.count = 0;
    size_t i;
    json_t *id;
    json_array_foreach(array, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab_size) {
            char *text = json_text_readable(id);
            log_error("cannot decode \"%s\" line %lld: id %zu is %.40s, must be a whole number from 0 to %lld", record->path,
                      (long long)record->line, i, text, (long long)vocab_size - 1);
            free(text);
            return -1;
        }
        token_list_add(&liner->ids, (int32_t)json_integer_value(id));
    }
    return 0;
}

static int decode_record(void *context, const struct record *record)
{
    struct liner *liner = context;
    json_t *array = record->messages != NULL
        ? json_object() : json_parse_line(record->prompt, record->prompt_size, record->path, (size_t)record->line);
    if (array != NULL && !json_is_array(array))
        log_error("cannot decode \"%s\" line %lld: not a JSON array of token ids", record->path, (long long)record->line);
    int result = json_is_array(array) ? ids_from_json(liner, array, record) : -1;
    json_decref(array);
    if (result != 0)
        return EX_DATAERR;
    liner->text.size = 0;
    tokenizer_decode(liner->style->tokenizer, liner->ids.at, liner->ids.count, 0, &liner->text);
    buffer_append(&liner->text, "\n", 1);
    fwrite(liner->text.data, 1, liner->text.size, stdout);
    return ferror(stdout) ? EX_IOERR : EX_OK;
}

static int give_lines(struct options *options, const struct prompt_style *style)
{
    struct liner liner = { .style = style };
    options->format = options->format ? options->format : "lines";
    int code = read_files(options, options->encode ? encode_record : decode_record, &liner);
    if (stdout_close() != 0 && code == EX_OK)
        code = EX_IOERR;
    free(liner.text.data);
    free(liner.ids.at);
    return code;
}

/* ---- training a tokenizer ---- */

static int collect_record(void *context, const struct record *record)
{
    struct buffer *texts = context;
    if (record->messages != NULL) {
        log_error("cannot use \"%s\" line %lld: --train-vocab reads texts, not messages", record->path, (long long)record->line);
        return EX_DATAERR;
    }
    buffer_append(texts, record->prompt, record->prompt_size);
    buffer_append(texts, "\n\n", 2);
    return 0;
}

/* A model's weights mean the ids of its own tokenizer.  EX_OK, or EX_CANTCREAT, logged. */
static int vocabulary_output_check(const char *directory)
{
    if (!weights_in_directory(directory))
        return EX_OK;
    log_error("\"%s\" has a model: its tokenizer would be replaced", directory);
    log_hint("choose another -o");
    return EX_CANTCREAT;
}

static int train_tokenizer(const struct options *options)
{
    struct buffer texts = { 0 };
    int code = vocabulary_output_check(options->output);
    if (code == EX_OK)
        code = read_files(options, collect_record, &texts);
    if (code == EX_OK && texts.size == 0) {
        log_error("nothing to train on: no text came in");
        code = EX_DATAERR;
    }
    bool usable = code == EX_OK || (code == EX_DATAERR && texts.size > 0);
    if (usable && directory_make(options->output) != 0) {
        code = EX_IOERR;
    } else if (usable) {
        struct tokenizer *tokenizer = tokenizer_train(texts.data, texts.size, (size_t)options->train_vocab);
        if (tokenizer_write(tokenizer, options->output) != 0)
            code = EX_IOERR;
        else
            log_event("wrote \"%s/tokenizer.json\" vocab_size=%zu text_bytes=%zu", options->output,
                      tokenizer_vocab_size(tokenizer), texts.size);
        tokenizer_close(tokenizer);
    }
    free(texts.data);
    return code;
}

int main(int argc, char **argv)
{
    struct options options = options_read(argc, argv);
    stop_install();
    if (options.train_vocab != 0)
        return train_tokenizer(&options);

    int code = model_fetch(&options.model, options.endpoint);
    struct tokenizer *tokenizer = code == EX_OK ? tokenizer_open(options.model, &code) : NULL;
    if (tokenizer == NULL)
        return code;
    struct prompt_style style;
    prompt_style_init(&style, tokenizer, options.chat);
    if (options.encode || options.decode)
        code = give_lines(&options, &style);
    else
        code = give_frames(&options, &style);
    prompt_style_free(&style);
    tokenizer_close(tokenizer);
    return code;
}
