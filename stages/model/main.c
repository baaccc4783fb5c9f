/*
 * model - what a model file is, and the same model in another format.
 *
 *     inspect   family, shape, size, memory, tokenizer, and whether every tensor is understood
 *     export    as a Hugging Face directory or a GGUF file
 */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/check.h"
#include "base/log.h"
#include "base/option.h"
#include "model/commands.h"

static int usage_of_all(const char *wrong)
{
    static const char text[] =
        "example:  model inspect TinyLlama-1.1B\n\n"
        "usage:    model inspect PATH...\n"
        "          model export -m MODEL -o DIR|FILE.gguf [options]\n\n"
        "inspect  family, shape, size, memory, tokenizer, and whether every tensor is understood\n"
        "export   the same model as a Hugging Face directory or a GGUF file\n\n"
        "Each has --help.\n";
    if (wrong == NULL) {
        fputs(text, stdout);
        return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
    }
    log_open("vas-model", 0);
    log_error("%s", wrong);
    log_hint("see 'model --help'");
    return EX_USAGE;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = { { "inspect", model_inspect_command }, { "export", model_export_command } };
    if (argc < 2)
        return usage_of_all("a command is missing: inspect or export");
    if (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0)
        return usage_of_all(NULL);
    if (strcmp(argv[1], "--version") == 0) {
        printf("vas-model %s\n", VAS_VERSION);
        return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
    }
    for (size_t i = 0; i < COUNT_OF(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    char wrong[128];
    snprintf(wrong, sizeof wrong, "unknown command \"%.80s\"", argv[1]);
    return usage_of_all(wrong);
}
