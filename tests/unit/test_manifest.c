/* test_manifest.c - a model as a list of files: from a directory, from JSON, and from JSON that somebody evil wrote. */
#define _GNU_SOURCE
#include <sysexits.h>
#include <unistd.h>

#include "../check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/manifest.h"
#include "stderr_text.h"

#define ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  /* SHA-256 of "abc" (FIPS 180-2) */

static char directory[64];

static void directory_open(void)
{
    test_directory(directory, sizeof directory);
}

static void directory_close(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0)
        abort();
}

static void put(const char *name, const char *content)
{
    char *path = memory_printf("%s/%s", directory, name);
    if (file_write(path, content, strlen(content)) != 0)
        abort();
    free(path);
}

/* Goal: of a directory those files count that programs read, by name, with the digest that sha256sum gives of its own lines. */
static void test_model_directory(void)
{
    struct manifest manifest;
    directory_open();
    put("config.json", "abc");
    put("tokenizer.model", "abc");
    put("README.md", "not read");
    put(".hidden.json", "not read");
    put("pytorch_model.bin", "not read");
    EXPECT_INT(manifest_of_path(&manifest, directory), 0);
    EXPECT_INT(manifest.count, 2);
    EXPECT_TEXT(manifest.files[0].name, "config.json");
    EXPECT_TEXT(manifest.files[0].sha256, ABC);
    EXPECT_INT(manifest.files[1].size, 3);
    EXPECT(manifest.files[1].changed_ns > 0);
    EXPECT_INT(manifest.size, 6);
    /* printf 'ABC  config.json\nABC  tokenizer.model\n' | sha256sum | cut -c-32 */
    EXPECT_TEXT(manifest.digest, "9de065d1b97153d4c473dc8f6403e5cb");
    manifest_free(&manifest);
    directory_close();
}

/* Goal: weights that the index of a sharded model does not name are left out: some repositories have them twice. */
static void test_index(void)
{
    struct manifest manifest;
    directory_open();
    put("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}");
    put("model-1.safetensors", "1");
    put("model-2.safetensors", "2");
    put("consolidated.safetensors", "12");
    EXPECT_INT(manifest_of_path(&manifest, directory), 0);
    EXPECT_INT(manifest.count, 3);
    EXPECT_TEXT(manifest.files[1].name, "model-2.safetensors");
    manifest_free(&manifest);
    put("model.safetensors.index.json", "{");
    EXPECT_INT(manifest_of_path(&manifest, directory), EX_DATAERR);
    directory_close();
}

/* Goal: a file is a model of one file; what is no model is refused. */
static void test_file(void)
{
    struct manifest manifest;
    directory_open();
    EXPECT_INT(manifest_of_path(&manifest, directory), EX_NOINPUT);
    put("model.gguf", "abc");
    char *path = memory_printf("%s/model.gguf", directory), *missing = memory_printf("%s/none.gguf", directory);
    EXPECT_INT(manifest_of_path(&manifest, path), 0);
    EXPECT_INT(manifest.count, 1);
    EXPECT_TEXT(manifest.files[0].name, "model.gguf");
    EXPECT_TEXT(manifest.files[0].sha256, ABC);
    manifest_free(&manifest);
    EXPECT_INT(manifest_of_path(&manifest, missing), EX_NOINPUT);
    put("adapter_config.json", "{}");
    EXPECT_INT(manifest_of_path(&manifest, directory), EX_DATAERR);
    free(path);
    free(missing);
    directory_close();
}

static int read_text(struct manifest *manifest, const char *text)
{
    json_t *json = json_parse(text, strlen(text), "evil");
    int result = manifest_from_json(manifest, json, "evil");
    json_decref(json);
    return result;
}

/* Goal: JSON there and back is the same list. */
static void test_round_trip(void)
{
    static const char text[] = "[{\"name\":\"a b.json\",\"sha256\":\"" ABC "\",\"size\":0},"
                               "{\"changed_ns\":1700000000123456789,\"name\":\"b.safetensors\",\"sha256\":\"" ABC
                                "\",\"size\":17592186044416}]";
    struct manifest manifest;
    EXPECT_INT(read_text(&manifest, text), 0);
    EXPECT_INT(manifest.size, 17592186044416);
    json_t *json = manifest_to_json(&manifest);
    char *again = json_text(json);
    EXPECT_TEXT(again, text);
    free(again);
    json_decref(json);
    manifest_free(&manifest);
}

/* Goal: whatever would lead out of the directory, hide in it or fill the disk is refused by name. */
static void test_hostile(void)
{
#define ONE(name, size, sha256) "[{\"name\": " name ", \"size\": " size ", \"sha256\": \"" sha256 "\"}]"
    static const struct { const char *text, *says; } cases[] = {
        { "{}", "has 0 files" }, { "[]", "has 0 files" }, { "\"a\"", "has 0 files" }, { "[1]", "not a plain file name" },
        { ONE("\"\"", "3", ABC), "not a plain file name" },
        { ONE("\"..\"", "3", ABC), "\"..\" is not a plain file name" },
        { ONE("\"../../.ssh/authorized_keys\"", "3", ABC), "not a plain file name" },
        { ONE("\"/etc/passwd\"", "3", ABC), "not a plain file name" },
        { ONE("\"a/b\"", "3", ABC), "not a plain file name" }, { ONE("\"a\\\\b\"", "3", ABC), "not a plain file name" },
        { ONE("\".checked\"", "3", ABC), "not a plain file name" }, { ONE("\".\"", "3", ABC), "not a plain file name" },
        { ONE("\"a\\nb\"", "3", ABC), "not a plain file name" }, { ONE("\"a\\u0000b\"", "3", ABC), "not a plain file name" },
        { ONE("\"\\u00e9\"", "3", ABC), "not a plain file name" }, { ONE("7", "3", ABC), "not a plain file name" },
        { ONE("\"a\"", "-1", ABC), "has no size from 0 to" }, { ONE("\"a\"", "17592186044417", ABC), "has no size from 0 to" },
        { ONE("\"a\"", "1.5", ABC), "has no size from 0 to" }, { ONE("\"a\"", "\"3\"", ABC), "has no size from 0 to" },
        { ONE("\"a\"", "3", "ABC"), "has no SHA-256" },
        { ONE("\"a\"", "3", "../../../../../../../../../../../../../../../../../../../../../x"), "has no SHA-256" },
        { "[{\"name\": \"a\", \"size\": 3}]", "has no SHA-256" },
        { "[{\"name\": \"b\", \"size\": 3, \"sha256\": \"" ABC "\"}, {\"name\": \"a\", \"size\": 3, \"sha256\": \"" ABC "\"}]",
          "stands after \"b\"" },
        { "[{\"name\": \"a\", \"size\": 3, \"sha256\": \"" ABC "\"}, {\"name\": \"a\", \"size\": 3, \"sha256\": \"" ABC "\"}]",
          "stands after \"a\"" },
    };
    struct manifest manifest;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stderr_hold();
        int result = read_text(&manifest, cases[i].text);
        const char *said = stderr_release();
        if (result != -1 || strstr(said, cases[i].says) == NULL)
            TEST_FAIL("%s gives %d and says \"%s\", expected \"%s\"", cases[i].text, result, said, cases[i].says);
    }
    struct buffer many = { 0 };
    for (int i = 0; i <= MANIFEST_FILES_MAX; i++)
        buffer_printf(&many, "%s{\"name\": \"%04d\", \"size\": 3, \"sha256\": \"" ABC "\"}", i ? ", " : "[", i);
    buffer_printf(&many, "]");
    buffer_append(&many, "", 1);
    EXPECT_INT(read_text(&manifest, many.data), -1);
    free(many.data);
}

int main(void)
{
    RUN(test_model_directory);
    RUN(test_index);
    RUN(test_file);
    RUN(test_round_trip);
    RUN(test_hostile);
    return tests_end();
}
