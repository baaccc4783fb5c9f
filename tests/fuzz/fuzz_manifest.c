/* fuzz_manifest.c - whatever the JSON, it is refused or a list of plain file names within its limits,
   which survives being written. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "fuzz.h"
#include "model/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = json_parse((const char *)data, size, "fuzz");
    struct manifest manifest, again;
    if (json != NULL && manifest_from_json(&manifest, json, "fuzz") == 0) {
        CHECK(manifest.count >= 1 && manifest.count <= MANIFEST_FILES_MAX && manifest.size >= 0);
        for (size_t i = 0; i < manifest.count; i++) {
            const struct manifest_file *file = &manifest.files[i];
            CHECK(file->name[0] != '.' && strchr(file->name, '/') == NULL && strlen(file->name) <= MANIFEST_NAME_BYTES);
            CHECK(file->size >= 0 && strlen(file->sha256) == DIGEST_HEX_SIZE - 1);
            CHECK(i == 0 || strcmp(file[-1].name, file->name) < 0);
        }
        json_t *written = manifest_to_json(&manifest);
        CHECK(manifest_from_json(&again, written, "again") == 0);
        CHECK(strcmp(manifest.digest, again.digest) == 0 && manifest.size == again.size);
        manifest_free(&again);
        manifest_free(&manifest);
        json_decref(written);
    }
    json_decref(json);
    return 0;
}
