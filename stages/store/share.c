/* share.c - store share: a model that workers fetch where they lack it. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/option.h"
#include "store/commands.h"
#include "store/shared.h"

/* Where the files lie, whatever directory the store runs in.  0, or an exit code, logged; the caller frees what is not NULL. */
static int paths_find(const struct manifest *manifest, const char *path, char **paths)
{
    bool is_directory = file_is_directory(path);
    for (size_t i = 0; i < manifest->count; i++) {
        char *file = is_directory ? memory_printf("%s/%s", path, manifest->files[i].name) : memory_text(path);
        paths[i] = realpath(file, NULL);
        free(file);
        if (paths[i] == NULL) {
            log_error("could not find file \"%s\" of \"%s\" any more", manifest->files[i].name, path);
            return EX_NOINPUT;
        }
    }
    return EX_OK;
}

/* The last part of a path. */
static char *name_of(const char *path)
{
    char *copy = memory_text(path);
    size_t size = strlen(copy);
    while (size > 1 && copy[size - 1] == '/')
        copy[--size] = '\0';
    const char *slash = strrchr(copy, '/');
    char *name = memory_text(slash != NULL && slash[1] != '\0' ? slash + 1 : copy);
    free(copy);
    return name;
}

static int share(struct db *db, const char *name, const char *path)
{
    struct manifest manifest;
    int code = manifest_of_path(&manifest, path);
    if (code != EX_OK)
        return code;
    char **paths = memory_alloc(manifest.count, sizeof *paths);
    code = paths_find(&manifest, path, paths);
    if (code == EX_OK && share_model(db, name, &manifest, paths) != 0) {
        log_error("could not write store \"%s\": %s", db_path(db), db_reason(db));
        code = EX_IOERR;
    }
    if (code == EX_OK) {
        log_event("shares model \"%s\" files=%zu MB=%lld", name, manifest.count, (long long)(manifest.size / 1000000));
        puts(manifest.digest);
    }
    for (size_t i = 0; i < manifest.count; i++)
        free(paths[i]);
    free(paths);
    manifest_free(&manifest);
    return code;
}

int command_share(int argc, char **argv)
{
    const char *path = NULL, *name = NULL;
    const struct option_spec specs[] = {
        { 0, "db", "FILE", OPTION_TEXT, &path, 0, 0, "the store's file" },
        { 0, "name", "NAME", OPTION_NAME, &name, 1, NAME_BYTES, "what workers call it (default: the last part of PATH)" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .command = "store share",
        .example = "store share --db vas.db --name base TinyLlama-1.1B",
        .synopsis = "store share --db FILE [--name NAME] PATH",
        .summary = "Lets workers fetch a model, a directory or a file, with -m store:NAME or -m store:DIGEST, and prints the"
                   " digest.\nIt is not copied: the store reads it where it is, and no longer gives it out when it has changed.\n"
                   "Works beside a store that is serving.",
        .exit_codes = "  0   done\n  64  usage\n  65  the file is not a store, or of another version; or PATH cannot be shared\n"
                      "  66  there is no such file\n  74  it could not be read or written\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    if (path == NULL)
        options_refuse("--db is missing: which store?");
    if (argc - first != 1)
        options_refuse(argc == first ? "PATH is missing: which model?" : "one PATH at a time, not %d", argc - first);
    char *own_name = name_of(argv[first]);
    if (name == NULL && !name_is_valid(own_name))
        options_refuse("\"%s\" is no name of at most %d bytes: give one with --name", own_name, NAME_BYTES);
    int code;
    struct db *db = db_open(path, DB_EDIT, &code);
    if (db != NULL)
        code = share(db, name != NULL ? name : own_name, argv[first]);
    db_close(db);
    free(own_name);
    return stdout_close() == 0 ? code : EX_IOERR;
}
