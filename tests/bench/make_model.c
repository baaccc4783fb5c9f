/*
 * make_model.c - random weights for a config, so that speed can be measured on shapes whose weights are not at hand.
 *
 *     make_model DIRECTORY            DIRECTORY/config.json is there; writes DIRECTORY/model.safetensors in float16
 *
 * Matrices are normal with variance 1 / inputs, norms are 1, biases 0, and there is a value head.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/philox.h"
#include "math/quant.h"
#include "model/config.h"
#include "model/family.h"

enum { TABLE = 1 << 16 };  // of normal numbers, drawn once

static uint16_t normals[TABLE];

static void write_tensor(struct file_out *file, enum weight_role role, const int64_t shape[2], size_t rank, uint64_t *random)
{
    const char *name = weight_specs[role].name;
    bool bias = strstr(name, ".bias") != NULL, one = rank == 1 && !bias;
    size_t columns = (size_t)shape[rank - 1], rows = rank > 1 ? (size_t)shape[0] : 1;
    float scale = (float)(1 / sqrt((double)columns));
    uint16_t scaled[TABLE], *row = memory_alloc(columns, sizeof *row);
    for (size_t i = 0; i < TABLE; i++)
        scaled[i] = bias ? 0 : one ? f16_from_float(1) : f16_from_float(float_from_f16(normals[i]) * scale);
    for (size_t n = 0; n < rows; n++) {
        for (size_t k = 0; k < columns; k++) {
            *random = *random * 6364136223846793005u + 1442695040888963407u;
            row[k] = scaled[*random >> 48];
        }
        file_out_write(file, row, columns * sizeof *row);
    }
    free(row);
}

int main(int argc, char **argv)
{
    log_open("make_model", 0);
    if (argc != 2)
        return EX_USAGE;
    struct model_config config;
    char *path = memory_printf("%s/model.safetensors", argv[1]);
    int code = config_open(&config, argv[1]);
    if (code != EX_OK)
        return code;
    CHECK(config.family == FAMILY_LLAMA);  // whose names are the canonical ones
    for (size_t i = 0; i < TABLE; i++)
        normals[i] = f16_from_float((float)philox_normal(1, PHILOX_DATA, 0, 0, (uint32_t)i));

    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    struct file_out file;
    size_t end = 0;
    for (int pass = 0; pass < 2; pass++) {  // names and places, then numbers
        uint64_t random = 1;
        for (enum weight_role role = 0; role < WEIGHT_ROLE_COUNT; role++) {
            for (int64_t l = 0; l < (weight_specs[role].per_layer ? config.layer_count : 1); l++) {
                int64_t shape[2];
                char name[WEIGHT_NAME_SIZE];
                if (!weight_present(&config, role))
                    continue;
                size_t rank = weight_shape(&config, role, shape);
                weight_name(role, l, name);
                if (pass == 1) {
                    write_tensor(&file, role, shape, rank, &random);
                    continue;
                }
                json_t *sizes = rank > 1 ? json_pack("[I,I]", (json_int_t)shape[0], (json_int_t)shape[1]) : json_pack("[I]", (json_int_t)shape[0]);
                size_t bytes = sizeof(uint16_t) * (size_t)shape[0] * (rank > 1 ? (size_t)shape[1] : 1);
                json_object_set_new(header, name, json_pack("{s:s,s:o,s:[I,I]}", "dtype", "F16", "shape", sizes, "data_offsets", (json_int_t)end,
                                                            (json_int_t)(end + bytes)));
                end += bytes;
            }
        }
        if (pass == 0) {
            char *text = json_dumps(header, JSON_COMPACT);
            uint64_t size = strlen(text);
            if (file_out_begin(&file, path) != 0)
                return EX_CANTCREAT;
            file_out_write(&file, &size, sizeof size);
            file_out_write(&file, text, size);
            free(text);
        }
    }
    json_decref(header);
    free(path);
    return file_out_end(&file, true) == 0 ? EX_OK : EX_IOERR;
}
