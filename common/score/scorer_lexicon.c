/*
 * scorer_lexicon.c - scores by a word list, after VADER: s / sqrt(s*s + 15), s the sum of the valences of the response's words.
 *
 * The file has one word a line, "word TAB valence [TAB anything]" or "word valence".  Words are what the regular
 * expression [a-z']+ finds in the lower-cased response, so entries with other characters (VADER's smileys) never match.
 * Of a word that stands twice the last valence counts, as in VADER's own loader.
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "score/scorer_backend.h"

static const double smoothing = 15, valence_max = 1e6;

struct entry {
    const char *word;  // in text, not terminated; NULL: free slot
    size_t size;
    double valence;
};

struct lexicon {
    char *text;             // the file, lower-cased
    struct entry *entries;  // (capacity) a hash table with linear probing, at most half full
    size_t capacity;        // a power of two
    char sha256[DIGEST_HEX_SIZE];
};

static bool is_word_byte(unsigned char byte)
{
    return ('a' <= byte && byte <= 'z') || byte == '\'';
}

/* The word's slot, or the free one where it would go. */
static struct entry *lexicon_slot(const struct lexicon *lexicon, const char *word, size_t size)
{
    uint64_t hash = 14695981039346656037u;  // FNV-1a
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)word[i]) * 1099511628211u;
    for (size_t i = hash;; i++) {
        struct entry *entry = &lexicon->entries[i & (lexicon->capacity - 1)];
        if (entry->word == NULL || (entry->size == size && memcmp(entry->word, word, size) == 0))
            return entry;
    }
}

/*
 * Splits a terminated line in place into its word and its valence.  A tab ends the word if there is one (VADER has words
 * with spaces), else white space.  0, or -1 with the fault.
 */
static int line_parse(char *line, size_t *word_size, double *valence, const char **fault)
{
    *word_size = strcspn(line, strchr(line, '\t') ? "\t" : " ");
    char *number = line + *word_size;
    number += strspn(number, " \t");
    number[strcspn(number, " \t")] = '\0';
    char *end;
    *valence = strtod(number, &end);
    if (*word_size == 0)
        *fault = "no word before the valence";
    else if (*number == '\0')
        *fault = "no valence after the word";
    else if (*end != '\0')
        *fault = "the valence is no number";
    else if (!(fabs(*valence) <= valence_max))
        *fault = "the valence is not within 1e6";
    else
        return 0;
    return -1;
}

/* Fills the table.  0, or -1 when a line is bad or no word can match, logged. */
static int lexicon_fill(struct lexicon *lexicon, size_t size, const char *path)
{
    size_t words = 0, repeated = 0, line_number = 0;
    char *end = lexicon->text + size;
    for (char *line = lexicon->text + utf8_mark(lexicon->text, size), *next; line < end; line = next) {
        char *newline = memchr(line, '\n', (size_t)(end - line));
        next = newline ? newline + 1 : end;
        line_number++;
        if (memchr(line, '\0', (size_t)(next - line)) != NULL) {
            log_error("cannot read lexicon \"%s\": line %zu has a NUL byte", path, line_number);
            return -1;
        }
        if (newline)
            *newline = '\0';
        line[strcspn(line, "\r")] = '\0';
        if (line[strspn(line, " \t")] == '\0')
            continue;
        size_t word_size, letters = 0;
        double valence;
        const char *fault;
        if (line_parse(line, &word_size, &valence, &fault) != 0) {
            log_error("cannot read lexicon \"%s\": line %zu, \"%.60s\": %s", path, line_number, line, fault);
            return -1;
        }
        while (letters < word_size && is_word_byte((unsigned char)line[letters]))
            letters++;
        if (letters < word_size)
            continue;
        struct entry *entry = lexicon_slot(lexicon, line, word_size);
        *(entry->word == NULL ? &words : &repeated) += 1;
        *entry = (struct entry){ .word = line, .size = word_size, .valence = valence };
    }
    if (words == 0) {
        log_error("cannot read lexicon \"%s\": no line has a word made of letters", path);
        return -1;
    }
    log_debug("lexicon \"%s\": words=%zu", path, words);
    if (repeated > 0)
        log_debug("lexicon \"%s\": %zu words stand there twice, the last valence counts", path, repeated);
    return 0;
}

static const char *lexicon_source(const struct scorer_options *options)
{
    return options->lexicon;
}

static void lexicon_close(void *state)
{
    struct lexicon *lexicon = state;
    free(lexicon->entries);
    free(lexicon->text);
    free(lexicon);
}

static void *lexicon_open(const struct scorer_options *options, int *code)
{
    struct file_map map;
    *code = file_map(&map, options->lexicon);
    if (*code != EX_OK)
        return NULL;
    struct lexicon *lexicon = memory_alloc(1, sizeof *lexicon);
    size_t size = map.size, lines = 1;
    lexicon->text = memory_alloc(size + 1, 1);
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = map.data[i];
        lexicon->text[i] = (char)('A' <= byte && byte <= 'Z' ? byte + ('a' - 'A') : byte);
        lines += byte == '\n';
    }
    struct digest digest;
    digest_init(&digest);
    digest_add(&digest, map.data, size);
    digest_hex(&digest, lexicon->sha256);
    file_unmap(&map);

    lexicon->capacity = 16;
    while (lexicon->capacity < 2 * lines)
        lexicon->capacity *= 2;
    lexicon->entries = memory_alloc(lexicon->capacity, sizeof *lexicon->entries);
    if (lexicon_fill(lexicon, size, options->lexicon) != 0) {
        lexicon_close(lexicon);
        *code = EX_DATAERR;
        return NULL;
    }
    return lexicon;
}

static void lexicon_describe(const void *state, json_t *spec)
{
    const struct lexicon *lexicon = state;
    json_object_set_new(spec, "sha256", json_string(lexicon->sha256));
}

/*
 * Copies text in lower case, as far as that decides which words it has: ASCII, and the two other characters whose lower case
 * begins with an ASCII letter, U+0130 (i and a combining dot) and U+212A (the Kelvin sign, k).
 */
static void lower_case(char *out, const char *text)
{
    const unsigned char *in = (const unsigned char *)text;
    while (*in != '\0') {
        if (in[0] == 0xC4 && in[1] == 0xB0) {
            *out++ = 'i';
            *out++ = '.';
            in += 2;
        } else if (in[0] == 0xE2 && in[1] == 0x84 && in[2] == 0xAA) {
            *out++ = 'k';
            in += 3;
        } else {
            unsigned char byte = *in++;
            *out++ = (char)('A' <= byte && byte <= 'Z' ? byte + ('a' - 'A') : byte);
        }
    }
    *out = '\0';
}

static double valence_sum(const struct lexicon *lexicon, const char *text)
{
    double sum = 0;
    while (*text != '\0') {
        size_t size = 0;
        while (is_word_byte((unsigned char)text[size]))
            size++;
        const struct entry *entry = size > 0 ? lexicon_slot(lexicon, text, size) : NULL;
        if (entry != NULL && entry->word != NULL)
            sum += entry->valence;
        text += size > 0 ? size : 1;
    }
    return sum;
}

static int lexicon_score(void *state, const struct scorer_text *texts, size_t count, struct scorer_result *results)
{
    const struct lexicon *lexicon = state;
    for (size_t i = 0; i < count; i++) {
        char *lowered = memory_alloc(strlen(texts[i].response) + 1, 1);
        lower_case(lowered, texts[i].response);
        double s = valence_sum(lexicon, lowered);
        free(lowered);
        results[i].status = SCORER_SCORED;
        results[i].score = s / sqrt(s * s + smoothing);
    }
    return 0;
}

const struct scorer_backend scorer_lexicon = {
    .kind = "lexicon",
    .source = lexicon_source,
    .open = lexicon_open,
    .close = lexicon_close,
    .describe = lexicon_describe,
    .score = lexicon_score,
};
