/* test_shared.c - models that the store shares: found by name and digest, read from where they lie,
   refused once they have changed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../check.h"
#include "base/file.h"
#include "base/memory.h"
#include "store/shared.h"

static char directory[64];
static struct db *db;
static struct arena arena;
static char reason[STORE_REASON_BYTES];

static char *path_of(const char *name)
{
    return arena_printf(&arena, "%s/%s", directory, name);
}

static void open_store(void)
{
    int code;
    test_directory(directory, sizeof directory);
    arena_init(&arena, "test", 64 << 20);
    db = db_open(path_of("s.db"), DB_SERVE, &code);
}

static void close_store(void)
{
    char command[96];
    db_close(db);
    arena_free(&arena);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0)
        abort();
}

/* A model directory with two files. */
static void make_model(const char *name, const char *config, const char *weights)
{
    if (directory_make(path_of(name)) != 0 || file_write(path_of(arena_printf(&arena, "%s/config.json", name)), config,
                                                         strlen(config)) != 0
        || file_write(path_of(arena_printf(&arena, "%s/model.safetensors", name)), weights, strlen(weights)) != 0)
        abort();
}

/* Leaves what was shared in manifest. */
static int share(const char *name, struct manifest *manifest)
{
    if (manifest_of_path(manifest, path_of(name)) != 0)
        abort();
    char *paths[2] = { NULL };
    for (size_t i = 0; i < manifest->count && i < 2; i++)
        paths[i] = path_of(arena_printf(&arena, "%s/%s", name, manifest->files[i].name));
    return share_model(db, name, manifest, paths);
}

static int find(const char *model, struct frame *frame)
{
    struct frame asked = frame_make(FRAME_find);
    asked.find.model = model;
    return shared_model(db, &asked.find, &arena, frame, reason);
}

static int read_at(const char *sha256, int64_t offset, int64_t size, struct frame *frame)
{
    struct frame asked = frame_make(FRAME_read);
    asked.read.sha256 = sha256;
    asked.read.offset = offset;
    asked.read.size = size;
    return shared_file(db, &asked.read, &arena, frame, reason);
}

/* Goal: a shared model is found by name and by digest, and any bytes of its files by their SHA-256. */
static void test_found_and_read(void)
{
    struct manifest manifest;
    struct frame frame;
    open_store();
    make_model("base", "{}", "0123456789");
    EXPECT_INT(find("base", &frame), 0);
    EXPECT(strstr(reason, "shares: none") != NULL);
    EXPECT_INT(share("base", &manifest), 0);
    EXPECT_INT(find("base", &frame), 1);
    EXPECT_TEXT(frame.model.model, "base");
    EXPECT(strncmp(frame.model.files, "[{\"name\":\"config.json\",\"sha256\":\"", 32) == 0);
    EXPECT(strstr(frame.model.files, directory) == NULL);  // where they lie is nobody's business
    EXPECT_INT(find(manifest.digest, &frame), 1);
    EXPECT_INT(find("other", &frame), 0);
    EXPECT(strstr(reason, "shares: base") != NULL);

    EXPECT_INT(read_at(manifest.files[1].sha256, 3, 4, &frame), 1);
    EXPECT_INT(frame.piece.data.size, 4);
    EXPECT(memcmp(frame.piece.data.at, "3456", 4) == 0);
    EXPECT_INT(read_at(manifest.files[1].sha256, 8, 1 << 20, &frame), 1);
    EXPECT_INT(frame.piece.data.size, 2);
    EXPECT_INT(read_at(manifest.files[1].sha256, 10, 1, &frame), 0);
    EXPECT(strstr(reason, "at offset 10") != NULL);
    EXPECT_INT(read_at("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 0, 1, &frame), 0);
    manifest_free(&manifest);
    close_store();
}

/* Goal: a file that was written since it was shared is not given out,
   unless the same bytes lie elsewhere too; shared again it is. */
static void test_changed(void)
{
    struct manifest first, second, again;
    struct frame frame;
    open_store();
    make_model("first", "{}", "0123456789");
    make_model("second", "{}", "0123456789");
    EXPECT_INT(share("first", &first), 0);
    EXPECT_INT(share("second", &second), 0);
    EXPECT_TEXT(second.digest, first.digest);
    make_model("first", "{}", "9876543210");
    struct timespec times[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };  // whatever the clock of the file system
    EXPECT_INT(utimensat(AT_FDCWD, path_of("first/model.safetensors"), times, 0), 0);
    EXPECT_INT(read_at(first.files[1].sha256, 0, 10, &frame), 1);
    EXPECT(memcmp(frame.piece.data.at, "0123456789", 10) == 0);
    EXPECT_INT(unlink(path_of("second/model.safetensors")), 0);
    EXPECT_INT(read_at(first.files[1].sha256, 0, 10, &frame), 0);
    EXPECT(strstr(reason, "has changed since it was shared") != NULL || strstr(reason, "could not open") != NULL);

    EXPECT_INT(share("first", &again), 0);
    EXPECT(strcmp(again.digest, first.digest) != 0);
    EXPECT_INT(read_at(again.files[1].sha256, 0, 10, &frame), 1);
    EXPECT_INT(find("first", &frame), 1);
    EXPECT(strstr(frame.model.files, again.files[1].sha256) != NULL);
    manifest_free(&first);
    manifest_free(&second);
    manifest_free(&again);
    close_store();
}

int main(void)
{
    RUN(test_found_and_read);
    RUN(test_changed);
    return tests_end();
}
