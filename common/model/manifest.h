/*
 * manifest.h - a model as a list of files: their names, sizes and SHA-256s, and one digest of them all.
 *
 * The digest is the key (base/digest.h) of the text that sha256sum prints for the files, "SHA256  NAME\n" for each, sorted by
 * name.  So whoever knows a digest needs to trust nobody for the bytes.
 *
 * As JSON it is an array of {"name", "size", "sha256"}, for a model that lies here also "changed_ns".  One that comes from
 * elsewhere is checked: a name is a plain file name of printable ASCII that does not begin with a point, names ascend, sizes and
 * their number have limits.
 */
#ifndef MODEL_MANIFEST_H
#define MODEL_MANIFEST_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"

enum { MANIFEST_FILES_MAX = 256, MANIFEST_NAME_BYTES = 128 };

struct manifest_file {
    char *name;
    int64_t size;  // bytes
    char sha256[DIGEST_HEX_SIZE];
    int64_t changed_ns;  // mtime, since 1970, of the file whose bytes were read for this; 0: of none
};

struct manifest {
    struct manifest_file *files;  // (count), by name
    size_t count;
    int64_t size;                 // bytes in all
    char digest[KEY_SIZE];
};

/*
 * The files of a model directory that programs read (of weights in safetensors those that they open), or the one file that path
 * is.  Reads all of it.  0; or an exit code, logged.
 */
int manifest_of_path(struct manifest *manifest, const char *path);
/* name is how errors call it.  0, or -1 logged; freed by the caller only after 0. */
int manifest_from_json(struct manifest *manifest, const json_t *json, const char *name);
json_t *manifest_to_json(const struct manifest *manifest);
void manifest_free(struct manifest *manifest);

/*
 * Reads the file at path: its size, SHA-256 and when it was changed.  progress counts MB on from where it stands; may be NULL.
 * 0, or an exit code, logged.
 */
struct progress;
int manifest_file_read(struct manifest_file *file, const char *path, struct progress *progress);

#endif
