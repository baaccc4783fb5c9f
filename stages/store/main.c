/*
 * store - one process that owns one SQLite file and one socket: what is asked for, what was made, what is missing.
 *
 *     serve     takes the outputs of all workers, gives them what lacks an output
 *     status    how much of everything is done
 *     export    rollouts and scores as JSON lines
 *     retry     offers again what was given up
 *     backup    a copy, also while it is served
 *     digest    one number for the whole content
 *     keygen    a key pair for the store or a worker
 *     share     a model that workers fetch where they lack it
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"
#include "base/option.h"
#include "store/commands.h"

static int usage_of_all(const char *wrong)
{
    static const char text[] =
        "example:  store serve --db vas.db\n\n"
        "usage:    store serve|status|export|retry|backup|digest|share --db FILE [options]\n          store keygen -o FILE\n\n"
        "serve    owns the file and serves workers\n"
        "status   how much of everything is done\n"
        "export   rollouts and scores as JSON lines\n"
        "retry    offers again what was given up\n"
        "backup   a copy, also while it is served\n"
        "digest   one SHA-256 for the whole content\n"
        "share    lets workers fetch a model\n"
        "keygen   a key pair, for stores and workers that meet over a network\n\n"
        "Each has --help.\n";
    if (wrong == NULL) {
        fputs(text, stdout);
        return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
    }
    log_open("vas-store", 0);
    log_error("%s", wrong);
    log_hint("see 'store --help'");
    return EX_USAGE;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {
        { "serve", command_serve }, { "status", command_status }, { "export", command_export },
        { "retry", command_retry }, { "backup", command_backup }, { "digest", command_digest },
        { "share", command_share }, { "keygen", command_keygen },
    };
    if (argc < 2)
        return usage_of_all("a command is missing: serve, status, export, retry, backup, digest, share or keygen");
    if (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0)
        return usage_of_all(NULL);
    if (strcmp(argv[1], "--version") == 0) {
        printf("vas-store %s\n", VAS_VERSION);
        return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
    }
    for (size_t i = 0; i < COUNT_OF(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    char wrong[128];
    snprintf(wrong, sizeof wrong, "unknown command \"%.80s\"", argv[1]);
    return usage_of_all(wrong);
}
