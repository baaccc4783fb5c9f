/*
 * tokenizer_sentencepiece.c - SentencePiece's *.model, a protocol buffer.
 *
 *     field 1, repeated  a piece: 1 text, 2 score (float), 3 type; its id is its place
 *     field 2            how it was trained: 3 model type, 24 spaces as suffixes, 35 byte fallback, 46 begin piece, 47 end piece
 *     field 3            how texts are normalised: 2 character map, 3 space before a text, 4 remove extra spaces,
 *                        5 escape spaces
 *
 * A message is a row of fields: a varint of number << 3 | wire type, then by wire type 0 a varint, 1 eight bytes, 2 a varint
 * and so many bytes, 5 four bytes.  Fields that are not named above are passed over; of one that comes twice the last
 * counts.  What the pieces then mean is sentencepiece.h's business.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "text/sentencepiece.h"

/* ---- the wire ---- */

enum wire_type { WIRE_VARINT = 0, WIRE_EIGHT = 1, WIRE_BYTES = 2, WIRE_FOUR = 5 };

/* What is left of a message; trouble, once set, stays, and no more fields come. */
struct wire {
    const unsigned char *at, *end;
    const char *trouble;
};

struct field {
    uint64_t number;
    enum wire_type type;
    uint64_t value;              // WIRE_VARINT; WIRE_FOUR and WIRE_EIGHT: the bytes, little-endian
    const unsigned char *bytes;  // WIRE_BYTES
    size_t size;                 // of bytes
};

static uint64_t wire_varint(struct wire *wire)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (wire->at == wire->end) {
            wire->trouble = "ends inside a number";
            return 0;
        }
        unsigned char byte = *wire->at++;
        if (shift == 63 && byte > 1)
            break;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return value;
    }
    wire->trouble = "holds a number of more than 64 bits";
    return 0;
}

static const unsigned char *wire_bytes(struct wire *wire, uint64_t size)
{
    if (size > (uint64_t)(wire->end - wire->at)) {
        wire->trouble = "ends inside a field";
        return NULL;
    }
    const unsigned char *bytes = wire->at;
    wire->at += size;
    return bytes;
}

static uint64_t wire_fixed(struct wire *wire, size_t size)
{
    const unsigned char *bytes = wire_bytes(wire, size);
    uint64_t value = 0;
    for (size_t i = 0; bytes != NULL && i < size; i++)
        value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

/* False at the end of the message and when there is trouble. */
static bool wire_next(struct wire *wire, struct field *field)
{
    if (wire->trouble != NULL || wire->at == wire->end)
        return false;
    uint64_t key = wire_varint(wire);
    *field = (struct field){ .number = key >> 3, .type = (enum wire_type)(key & 7) };
    if (wire->trouble == NULL && (field->number == 0 || field->number >= 1u << 29))
        wire->trouble = "has a field of no valid number";
    if (wire->trouble != NULL)
        return false;
    switch (field->type) {
    case WIRE_VARINT: field->value = wire_varint(wire); break;
    case WIRE_FOUR: field->value = wire_fixed(wire, 4); break;
    case WIRE_EIGHT: field->value = wire_fixed(wire, 8); break;
    case WIRE_BYTES:
        field->value = wire_varint(wire);
        if (wire->trouble == NULL)
            field->bytes = wire_bytes(wire, field->value);
        field->size = (size_t)field->value;
        break;
    default: wire->trouble = "has a field of an unknown wire type";
    }
    return wire->trouble == NULL;
}

/* Whether the field is this one; trouble when it has another wire type than it should have. */
static bool field_is(struct wire *wire, const struct field *field, uint64_t number, enum wire_type type)
{
    if (field->number != number)
        return false;
    if (field->type != type)
        wire->trouble = "has a field of another wire type than SentencePiece's";
    return field->type == type;
}

static struct wire wire_of(const struct field *field)
{
    return (struct wire){ .at = field->bytes, .end = field->bytes + field->size };
}

/* ---- the model ---- */

enum model_type { MODEL_UNIGRAM = 1, MODEL_BPE };

/* A text inside the file. */
struct text {
    const char *at;
    size_t size;
};

struct model {
    uint64_t type;
    bool space_suffix;
    struct text begin, end;
    float *scores;         // (capacity), by id
    unsigned char *types;  // (capacity) enum piece_type
    size_t capacity;
    struct sentencepiece spec;
};

static struct text text_of(const struct field *field)
{
    return (struct text){ (const char *)field->bytes, field->size };
}

static int refuse_wire(const struct tokenizer *tokenizer, const char *where, const char *trouble)
{
    return tokenizer_refuse(tokenizer, "no SentencePiece model: after %zu pieces, %s %s", tokenizer->vocabulary.count, where,
                            trouble);
}

static int read_piece(struct tokenizer *tokenizer, struct model *model, struct wire wire)
{
    struct field field;
    struct text text = { "", 0 };
    float score = 0;
    uint64_t type = PIECE_NORMAL;
    while (wire_next(&wire, &field)) {
        if (field_is(&wire, &field, 1, WIRE_BYTES)) {
            text = text_of(&field);
        } else if (field_is(&wire, &field, 2, WIRE_FOUR)) {
            uint32_t bits = (uint32_t)field.value;
            memcpy(&score, &bits, sizeof score);
        } else if (field_is(&wire, &field, 3, WIRE_VARINT)) {
            type = field.value;
        }
    }
    if (wire.trouble != NULL)
        return refuse_wire(tokenizer, "a piece", wire.trouble);
    size_t id = tokenizer->vocabulary.count;
    if (text.size == 0)
        return refuse_wire(tokenizer, "a piece", "has no text");
    if (type < PIECE_NORMAL || type > PIECE_BYTE)
        return tokenizer_refuse(tokenizer, "piece %zu has type %" PRIu64 ", must be 1 .. %d", id, type, PIECE_BYTE);
    if (vocabulary_add(&tokenizer->vocabulary, (int64_t)id, text.at, text.size, false, tokenizer->name) != 0)
        return -1;
    if (id == model->capacity) {
        model->capacity = model->capacity ? 2 * model->capacity : 1024;
        model->scores = memory_grow(model->scores, model->capacity, sizeof *model->scores);
        model->types = memory_grow(model->types, model->capacity, sizeof *model->types);
    }
    model->scores[id] = score;
    model->types[id] = (unsigned char)type;
    return 0;
}

static int read_trainer(const struct tokenizer *tokenizer, struct model *model, struct wire wire)
{
    struct field field;
    while (wire_next(&wire, &field)) {
        if (field_is(&wire, &field, 3, WIRE_VARINT))
            model->type = field.value;
        else if (field_is(&wire, &field, 24, WIRE_VARINT))
            model->space_suffix = field.value != 0;
        else if (field_is(&wire, &field, 35, WIRE_VARINT))
            model->spec.byte_fallback = field.value != 0;
        else if (field_is(&wire, &field, 46, WIRE_BYTES))
            model->begin = text_of(&field);
        else if (field_is(&wire, &field, 47, WIRE_BYTES))
            model->end = text_of(&field);
    }
    return wire.trouble != NULL ? refuse_wire(tokenizer, "trainer_spec", wire.trouble) : 0;
}

static int read_normalizer(const struct tokenizer *tokenizer, struct model *model, struct wire wire)
{
    struct sentencepiece *spec = &model->spec;
    struct field field;
    while (wire_next(&wire, &field)) {
        if (field_is(&wire, &field, 2, WIRE_BYTES)) {
            spec->charsmap = (const char *)field.bytes;
            spec->charsmap_size = field.size;
        } else if (field_is(&wire, &field, 3, WIRE_VARINT)) {
            spec->dummy_prefix = field.value != 0;
        } else if (field_is(&wire, &field, 4, WIRE_VARINT)) {
            spec->remove_spaces = field.value != 0;
        } else if (field_is(&wire, &field, 5, WIRE_VARINT)) {
            spec->escape_spaces = field.value != 0;
        }
    }
    return wire.trouble != NULL ? refuse_wire(tokenizer, "normalizer_spec", wire.trouble) : 0;
}

static int read_model(struct tokenizer *tokenizer, struct model *model, const void *data, size_t size)
{
    struct wire wire = { .at = data, .end = size > 0 ? (const unsigned char *)data + size : data };
    struct field field;
    int result = 0;
    while (result == 0 && wire_next(&wire, &field)) {
        if (field_is(&wire, &field, 1, WIRE_BYTES))
            result = read_piece(tokenizer, model, wire_of(&field));
        else if (field_is(&wire, &field, 2, WIRE_BYTES))
            result = read_trainer(tokenizer, model, wire_of(&field));
        else if (field_is(&wire, &field, 3, WIRE_BYTES))
            result = read_normalizer(tokenizer, model, wire_of(&field));
    }
    return result == 0 && wire.trouble != NULL ? refuse_wire(tokenizer, "the file", wire.trouble) : result;
}

/* The piece of this text if it has the type; else -1. */
static int32_t piece_of_type(const struct tokenizer *tokenizer, const struct model *model, struct text text, enum piece_type type)
{
    int32_t id = vocabulary_find(&tokenizer->vocabulary, text.at, text.size);
    return id >= 0 && model->types[id] == type ? id : -1;
}

static int use_model(struct tokenizer *tokenizer, struct model *model)
{
    static const char *const names[] = { "", "", "", " (WORD)", " (CHAR)" };
    if (tokenizer->vocabulary.count == 0)
        return tokenizer_refuse(tokenizer, "no SentencePiece model: it has no pieces");
    if (model->type != MODEL_UNIGRAM && model->type != MODEL_BPE)
        return tokenizer_refuse(tokenizer, "the model type %" PRIu64 "%s is not supported, UNIGRAM and BPE are", model->type,
                                model->type < COUNT_OF(names) ? names[model->type] : "");
    if (model->space_suffix)
        return tokenizer_refuse(tokenizer, "pieces that end with their space, treat_whitespace_as_suffix, are not supported");
    struct sentencepiece *spec = &model->spec;
    spec->unigram = model->type == MODEL_UNIGRAM;
    spec->scores = model->scores;
    spec->types = model->types;
    for (size_t id = 0; id < tokenizer->vocabulary.count; id++) {
        if (model->types[id] != PIECE_UNKNOWN)
            continue;
        if (spec->unknown >= 0)
            return tokenizer_refuse(tokenizer, "tokens %" PRId32 " and %zu are both the unknown one", spec->unknown, id);
        spec->unknown = (int32_t)id;
    }
    if (spec->unknown < 0)
        return tokenizer_refuse(tokenizer, "it has no unknown piece");
    piece_types_use(tokenizer, model->types);
    if (sentencepiece_use(tokenizer, spec) != 0)
        return -1;
    tokenizer->begin = piece_of_type(tokenizer, model, model->begin, PIECE_CONTROL);
    tokenizer->end = piece_of_type(tokenizer, model, model->end, PIECE_CONTROL);
    if (sentencepiece_is_llama(spec) && tokenizer->begin >= 0)
        token_list_add(&tokenizer->prefix, tokenizer->begin);
    if (tokenizer->begin >= 0 && tokenizer->end >= 0 && strcmp(tokenizer->vocabulary.pieces[tokenizer->begin].at, "[CLS]") == 0) {
        token_list_add(&tokenizer->prefix, tokenizer->begin);
        token_list_add(&tokenizer->suffix, tokenizer->end);
        tokenizer_use_pair(tokenizer, 1, 1);
    }
    return 0;
}

struct tokenizer *tokenizer_from_sentencepiece(const void *data, size_t size, const char *name)
{
    struct tokenizer *tokenizer = tokenizer_new(name);
    struct model model = {
        .type = MODEL_UNIGRAM, .begin = { "<s>", 3 }, .end = { "</s>", 4 },
        .spec = { .dummy_prefix = true, .remove_spaces = true, .escape_spaces = true, .unknown = -1 },
    };
    bool good = read_model(tokenizer, &model, data, size) == 0 && use_model(tokenizer, &model) == 0;
    free(model.scores);
    free(model.types);
    if (good)
        return tokenizer;
    tokenizer_close(tokenizer);
    return NULL;
}
