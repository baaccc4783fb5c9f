/* refusal.c - see refusal.h. */
#include "decode/refusal.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

json_t *refusal_to_json(const char *reason, size_t number)
{
    struct buffer valid = { 0 };  // what a reason quotes may be cut inside a character
    utf8_append_repaired(&valid, reason, strlen(reason));
    json_t *json = json_pack("{s:s%}", "error", valid.data, valid.size);
    if (number > 0)
        json_object_set_new(json, "line", json_integer((json_int_t)number));
    free(valid.data);
    return json;
}
