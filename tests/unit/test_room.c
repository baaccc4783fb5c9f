/* test_room.c - the memory that is left to a model, and models that are refused for want of it. */
#define _GNU_SOURCE
#include "../check.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/model.h"
#include "model/room.h"
#include "stderr_text.h"
#include "tiny_model.h"

static size_t file_number(const char *path, const char *key)
{
    char line[256];
    size_t number = 0;
    FILE *in = fopen(path, "r");
    while (in != NULL && fgets(line, sizeof line, in) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            number = strtoull(line + strlen(key), NULL, 10);
    if (in != NULL)
        fclose(in);
    return number;
}

/* Goal: without other limits the room is the machine's available memory, give or take what others take meanwhile. */
static void test_machine(void)
{
    const char *bound;
    size_t available = file_number("/proc/meminfo", "MemAvailable:") << 10, room = room_bytes(&bound);
    EXPECT(room > 0 && room <= available + (available >> 2));
}

/* Goal: what needs no more than there is passes; one byte over SIZE_MAX / 2 has never been there, and the line says so. */
static void test_check(void)
{
    EXPECT_INT(room_check("small", 1000, 4000), EX_OK);
    stderr_hold();
    int code = room_check("large", 7000000000, SIZE_MAX / 2 + 1);
    const char *text = stderr_release();
    EXPECT_INT(code, EX_OSERR);
    EXPECT(strstr(text, "model \"large\" needs 8796093022209 MiB of memory, ") != NULL);
    EXPECT(strchr(text, '\n') == strrchr(text, '\n'));
}

static void group_file(const char *directory, const char *name, const char *text)
{
    char *path = memory_printf("%s/%s", directory, name);
    EXPECT_INT(file_write(path, text, strlen(text)), 0);
    free(path);
}

/* Goal: a control group leaves its limit less what it uses, files that can be dropped not counted; groups above it bind too. */
static void test_control_groups(void)
{
    char root[64];
    test_directory(root, sizeof root);
    char *outer = memory_printf("%s/outer", root), *inner = memory_printf("%s/outer/inner", root);
    EXPECT(mkdir(outer, 0700) == 0 && mkdir(inner, 0700) == 0);
    EXPECT(room_group_bytes(root, "/") == SIZE_MAX);             // the machine's own group has no such files
    EXPECT(room_group_bytes(root, "/outer/inner") == SIZE_MAX);

    group_file(inner, "memory.max", "max\n");
    group_file(inner, "memory.current", "100\n");
    EXPECT(room_group_bytes(root, "/outer/inner") == SIZE_MAX);
    group_file(inner, "memory.max", "1000\n");
    EXPECT_INT(room_group_bytes(root, "/outer/inner"), 900);
    group_file(inner, "memory.stat", "anon 40\nfile 60\ninactive_file 30\nactive_file 20\nfile_thp 0\n");
    EXPECT_INT(room_group_bytes(root, "/outer/inner"), 950);     // 1000 - (100 - 30 - 20)
    group_file(outer, "memory.max", "700\n");
    group_file(outer, "memory.current", "650\n");
    EXPECT_INT(room_group_bytes(root, "/outer/inner"), 50);
    group_file(outer, "memory.current", "701\n");
    EXPECT_INT(room_group_bytes(root, "/outer/inner"), 0);
    EXPECT(room_group_bytes(root, "/elsewhere") == SIZE_MAX);

    char *command = memory_printf("rm -r %s", root);
    EXPECT_INT(system(command), 0);
    free(command);
    free(inner);
    free(outer);
}

/* Goal: where the address space is limited to what is in use, a model is refused with 71 and one line before any of it is read. */
static void test_address_space(void)
{
    struct pool *pool = pool_open(1);
    struct buffer file = tiny_safetensors(&tiny_config, 1);
    struct weights *weights = weights_from_memory(file.data, file.size, "tiny");
    struct model *model = NULL;
    int code = 0;
    const char *text, *bound;
    struct rlimit limit, old;
    EXPECT_INT(getrlimit(RLIMIT_AS, &old), 0);
    limit = old;
    limit.rlim_cur = file_number("/proc/self/status", "VmSize:") << 10;
    stderr_hold();
    EXPECT_INT(setrlimit(RLIMIT_AS, &limit), 0);
    size_t room = room_bytes(&bound);
    model = model_from_weights(weights, &tiny_config, "tiny", pool, &code);
    setrlimit(RLIMIT_AS, &old);
    text = stderr_release();
    EXPECT_INT(room, 0);
    EXPECT(model == NULL);
    EXPECT_INT(code, EX_OSERR);
    EXPECT(strstr(text, "model \"tiny\" needs 1 MiB of memory, the limit of address space (ulimit -v) leaves 0 MiB") != NULL);
    model = model_from_weights(weights, &tiny_config, "tiny", pool, &code);
    EXPECT(model != NULL);
    model_close(model);
    weights_close(weights);
    free(file.data);
    pool_close(pool);
}

int main(void)
{
    RUN(test_machine);
    RUN(test_check);
    RUN(test_control_groups);
    RUN(test_address_space);
    return tests_end();
}
