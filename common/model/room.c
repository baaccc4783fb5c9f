/* room.c - see room.h. */
#include "model/room.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"

/* The number behind key at the beginning of a line of a file; key "" is that of its first line.  False where there is none. */
static bool file_number(const char *directory, const char *file, const char *key, size_t *number)
{
    char *path = memory_printf("%s/%s", directory, file), line[256];
    FILE *in = fopen(path, "re");
    bool found = false;
    while (in != NULL && !found && fgets(line, sizeof line, in) != NULL) {
        char *end, *text = line + strlen(key);
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        *number = strtoull(text, &end, 10);
        found = end != text;
    }
    if (in != NULL)
        fclose(in);
    free(path);
    return found;
}

static size_t less(size_t whole, size_t used)
{
    return whole > used ? whole - used : 0;
}

/* ---- control groups ---- */

struct group_layout {
    const char *entry, *root;  // where /proc/self/cgroup names the group, and where the hierarchy is mounted
    const char *limit, *used, *dropped[2];
};
static const struct group_layout group_layouts[] = {
    { "0::", "/sys/fs/cgroup", "memory.max", "memory.current", { "inactive_file ", "active_file " } },
    { ":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
      { "total_inactive_file ", "total_active_file " } },
};

/* Of the group and those above it, up to the root. */
static size_t group_bytes(const struct group_layout *layout, const char *root, const char *path)
{
    size_t least = SIZE_MAX, limit, used, dropped;
    char *directory = memory_printf("%s%s", root, path), *parent;
    for (; strlen(directory) >= strlen(root); *parent = '\0') {
        parent = strrchr(directory, '/');
        if (!file_number(directory, layout->limit, "", &limit) || !file_number(directory, layout->used, "", &used))
            continue;
        for (size_t i = 0; i < COUNT_OF(layout->dropped); i++)
            used = less(used, file_number(directory, "memory.stat", layout->dropped[i], &dropped) ? dropped : 0);
        least = less(limit, used) < least ? less(limit, used) : least;
    }
    free(directory);
    return least;
}

size_t room_group_bytes(const char *root, const char *path)
{
    return group_bytes(&group_layouts[0], root, path);
}

static size_t own_group_bytes(void)
{
    size_t least = SIZE_MAX;
    char line[4096];
    FILE *in = fopen("/proc/self/cgroup", "re");
    while (in != NULL && fgets(line, sizeof line, in) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        for (size_t i = 0; i < COUNT_OF(group_layouts); i++) {
            const struct group_layout *layout = &group_layouts[i];
            const char *entry = strstr(line, layout->entry);
            if (entry == NULL)
                continue;
            size_t bytes = group_bytes(layout, layout->root, entry + strlen(layout->entry));
            least = bytes < least ? bytes : least;
        }
    }
    if (in != NULL)
        fclose(in);
    return least;
}

/* ---- the bounds ---- */

static size_t machine_bytes(void)
{
    size_t available_kib;
    return file_number("/proc", "meminfo", "MemAvailable:", &available_kib) ? available_kib * 1024 : SIZE_MAX;
}

static size_t address_bytes(void)
{
    struct rlimit limit;
    size_t used_kib;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY
        || !file_number("/proc/self", "status", "VmSize:", &used_kib))
        return SIZE_MAX;
    return less(limit.rlim_cur, used_kib * 1024);
}

size_t room_bytes(const char **bound)
{
    static const struct {
        const char *name;
        size_t (*bytes)(void);
    } bounds[] = {
        { "this machine has", machine_bytes },
        { "the memory limit of this control group leaves", own_group_bytes },
        { "the limit of address space (ulimit -v) leaves", address_bytes },
    };
    size_t least = SIZE_MAX;
    *bound = bounds[0].name;
    for (size_t i = 0; i < COUNT_OF(bounds); i++) {
        size_t bytes = bounds[i].bytes();
        if (bytes < least) {
            least = bytes;
            *bound = bounds[i].name;
        }
    }
    return least;
}

int room_check(const char *name, int64_t parameter_count, size_t size_bytes)
{
    const char *bound;
    size_t room = room_bytes(&bound), needed_mib = (size_bytes >> 20) + 1, room_mib = room >> 20;
    log_debug("model \"%s\" parameters=%lld needs_mib=%zu available_mib=%zu", name, (long long)parameter_count, needed_mib,
              room_mib);
    if (size_bytes <= room)
        return EX_OK;
    log_error("model \"%s\" needs %zu MiB of memory, %s %zu MiB", name, needed_mib, bound, room_mib);
    return EX_OSERR;
}
