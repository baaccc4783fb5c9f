/* manifest.c - see manifest.h. */
#define _GNU_SOURCE
#include "model/manifest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "model/adapter.h"
#include "model/weights.h"

enum { MB = 1000000 };
static const int64_t FILE_BYTES_MAX = (int64_t)1 << 44;  // so that sizes and their sum are exact in anybody's JSON

void manifest_free(struct manifest *manifest)
{
    for (size_t i = 0; i < manifest->count; i++)
        free(manifest->files[i].name);
    free(manifest->files);
    *manifest = (struct manifest){ 0 };
}

static struct manifest_file *manifest_add(struct manifest *manifest, const char *name)
{
    manifest->files = memory_grow(manifest->files, manifest->count + 1, sizeof *manifest->files);
    struct manifest_file *file = &manifest->files[manifest->count++];
    *file = (struct manifest_file){ .name = memory_text(name) };
    return file;
}

/* Sums up what the files say. */
static void manifest_close(struct manifest *manifest)
{
    struct digest digest;
    digest_init(&digest);
    manifest->size = 0;
    for (size_t i = 0; i < manifest->count; i++) {
        const struct manifest_file *file = &manifest->files[i];
        char *line = memory_printf("%s  %s\n", file->sha256, file->name);
        digest_add(&digest, line, strlen(line));
        free(line);
        manifest->size += file->size;
    }
    digest_key(&digest, manifest->digest);
}

/* ---- JSON ---- */

static bool name_is_plain(const char *name)
{
    size_t size = strlen(name);
    if (size == 0 || size > MANIFEST_NAME_BYTES || name[0] == '.')
        return false;
    for (size_t i = 0; i < size; i++)
        if (name[i] < ' ' || name[i] > '~' || name[i] == '/' || name[i] == '\\')
            return false;
    return true;
}

static bool is_sha256(const char *text)
{
    return strlen(text) == DIGEST_HEX_SIZE - 1 && strspn(text, "0123456789abcdef") == DIGEST_HEX_SIZE - 1;
}

static int file_from_json(struct manifest *manifest, const json_t *json, const char *name)
{
    const json_t *name_json = json_object_get(json, "name"), *size = json_object_get(json, "size");
    const char *text = json_string_value(name_json), *sha256 = json_string_value(json_object_get(json, "sha256"));
    const char *last = manifest->count > 0 ? manifest->files[manifest->count - 1].name : "";
    if (text == NULL || strlen(text) != json_string_length(name_json) || !name_is_plain(text)) {
        log_error("cannot use model \"%s\": \"%.200s\" is not a plain file name of at most %d bytes", name, text ? text : "",
                  MANIFEST_NAME_BYTES);
        return -1;
    }
    if (strcmp(last, text) >= 0) {
        log_error("cannot use model \"%s\": file \"%s\" stands after \"%s\"", name, text, last);
        return -1;
    }
    if (!json_is_integer(size) || json_integer_value(size) < 0 || json_integer_value(size) > FILE_BYTES_MAX) {
        log_error("cannot use model \"%s\": file \"%s\" has no size from 0 to %lld bytes", name, text, (long long)FILE_BYTES_MAX);
        return -1;
    }
    if (sha256 == NULL || !is_sha256(sha256)) {
        log_error("cannot use model \"%s\": file \"%s\" has no SHA-256", name, text);
        return -1;
    }
    struct manifest_file *file = manifest_add(manifest, text);
    file->size = json_integer_value(size);
    file->changed_ns = json_integer_value(json_object_get(json, "changed_ns"));  // 0 where there is none
    memcpy(file->sha256, sha256, sizeof file->sha256);
    return 0;
}

int manifest_from_json(struct manifest *manifest, const json_t *json, const char *name)
{
    *manifest = (struct manifest){ 0 };
    size_t count = json_array_size(json);  // 0 of anything else
    if (count < 1 || count > MANIFEST_FILES_MAX) {
        log_error("cannot use model \"%s\": it has %zu files, must be 1 to %d", name, count, MANIFEST_FILES_MAX);
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        if (file_from_json(manifest, json_array_get(json, i), name) != 0) {
            manifest_free(manifest);
            return -1;
        }
    }
    manifest_close(manifest);
    return 0;
}

json_t *manifest_to_json(const struct manifest *manifest)
{
    json_t *json = json_array();
    for (size_t i = 0; i < manifest->count; i++) {
        const struct manifest_file *file = &manifest->files[i];
        json_t *entry = json_pack("{s:s, s:I, s:s}", "name", file->name, "size", (json_int_t)file->size, "sha256", file->sha256);
        CHECK(entry != NULL);
        if (file->changed_ns != 0)
            json_object_set_new(entry, "changed_ns", json_integer(file->changed_ns));
        json_array_append_new(json, entry);
    }
    return json;
}

/* ---- files ---- */

int manifest_file_read(struct manifest_file *file, const char *path, struct progress *progress)
{
    enum { PART_BYTES = 1 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct file_state state;
    if (fd < 0 || file_state(fd, &state) != 0) {
        int code = errno == ENOENT ? EX_NOINPUT : EX_IOERR;
        log_error("could not open \"%s\": %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return code;
    }
    char *part = memory_alloc(PART_BYTES, 1);
    int64_t begun = progress != NULL ? progress->done : 0;
    struct digest digest;
    digest_init(&digest);
    file->size = 0;
    file->changed_ns = state.changed_ns;
    ssize_t n;
    while ((n = read(fd, part, PART_BYTES)) > 0 || (n < 0 && errno == EINTR)) {
        digest_add(&digest, part, n > 0 ? (size_t)n : 0);
        file->size += n > 0 ? n : 0;
        if (progress != NULL)
            progress_set(progress, begun + file->size / MB);
    }
    if (n < 0)
        log_error("could not read \"%s\": %s", path, strerror(errno));
    digest_hex(&digest, file->sha256);
    free(part);
    close(fd);
    return n < 0 ? EX_IOERR : EX_OK;
}

static bool has_ending(const char *name, const char *ending)
{
    size_t size = strlen(name), ending_size = strlen(ending);
    return size > ending_size && strcmp(name + size - ending_size, ending) == 0;
}

/* The index of a sharded model, or NULL where there is none.  -1 when it cannot be read. */
static int index_read(const char *directory, json_t **index)
{
    char *path = weights_index_path(directory);
    *index = file_exists(path) ? json_read(path) : NULL;
    int result = file_exists(path) && *index == NULL ? -1 : 0;
    free(path);
    return result;
}

/* Some repositories have their weights twice: what the index does not name is never opened. */
static bool index_names(const json_t *index, const char *name)
{
    const char *tensor;
    json_t *file;
    json_object_foreach(json_object_get(index, "weight_map"), tensor, file)
        if (json_is_string(file) && strcmp(json_string_value(file), name) == 0)
            return true;
    return false;
}

static bool is_read(const char *name, const json_t *index)
{
    static const char *const endings[] = { ".json", ".model", ".txt", ".jinja" };
    if (has_ending(name, ".safetensors"))
        return index == NULL || index_names(index, name);
    for (size_t i = 0; i < COUNT_OF(endings); i++)
        if (has_ending(name, endings[i]))
            return true;
    return false;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct manifest_file *)a)->name, ((const struct manifest_file *)b)->name);
}

static int directory_list(struct manifest *manifest, const char *directory)
{
    json_t *index;
    if (index_read(directory, &index) != 0)
        return EX_DATAERR;
    DIR *entries = opendir(directory);
    if (entries == NULL) {
        log_error("could not open directory \"%s\": %s", directory, strerror(errno));
        json_decref(index);
        return EX_OSERR;
    }
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;)
        if (entry->d_name[0] != '.' && is_read(entry->d_name, index))
            manifest_add(manifest, entry->d_name);
    closedir(entries);
    json_decref(index);
    if (manifest->count == 0) {
        log_error("\"%s\" is no model: it has no *.json, *.safetensors, *.model or *.txt", directory);
        return EX_NOINPUT;
    }
    qsort(manifest->files, manifest->count, sizeof *manifest->files, by_name);
    return EX_OK;
}

static int files_read(struct manifest *manifest, const char *path, bool is_directory)
{
    struct progress progress;
    int code = EX_OK;
    progress_start(&progress, "read", "MB", 0);
    for (size_t i = 0; i < manifest->count && code == EX_OK; i++) {
        char *file = is_directory ? memory_printf("%s/%s", path, manifest->files[i].name) : memory_text(path);
        code = manifest_file_read(&manifest->files[i], file, &progress);
        free(file);
    }
    if (progress.done > 0)
        progress_end(&progress);
    return code;
}

int manifest_of_path(struct manifest *manifest, const char *path)
{
    *manifest = (struct manifest){ 0 };
    bool is_directory = file_is_directory(path);
    int code = EX_OK;
    if (is_directory && adapter_is_directory(path)) {
        log_error("\"%s\" is an adapter, which is no model without its base", path);
        log_hint("'model export' merges it into a model");
        return EX_DATAERR;
    }
    if (is_directory)
        code = directory_list(manifest, path);
    else
        manifest_add(manifest, strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path);
    if (code == EX_OK && manifest->count > MANIFEST_FILES_MAX) {
        log_error("\"%s\" has %zu files, must be at most %d", path, manifest->count, MANIFEST_FILES_MAX);
        code = EX_DATAERR;
    }
    for (size_t i = 0; i < manifest->count && code == EX_OK; i++) {
        if (!name_is_plain(manifest->files[i].name)) {
            log_error("\"%s\" has file \"%s\", whose name must be of printable ASCII and at most %d bytes", path,
                      manifest->files[i].name, MANIFEST_NAME_BYTES);
            code = EX_DATAERR;
        }
    }
    if (code == EX_OK)
        code = files_read(manifest, path, is_directory);
    if (code == EX_OK)
        manifest_close(manifest);
    else
        manifest_free(manifest);
    return code;
}
