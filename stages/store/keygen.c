/* keygen.c - 'store keygen': a key pair in two files. */
#include "base/check.h"
#include "base/option.h"
#include "store/commands.h"
#include "wire/curve.h"

int command_keygen(int argc, char **argv)
{
    const char *path = NULL;
    const struct option_spec specs[] = {
        { 'o', "output", "FILE", OPTION_TEXT, &path, 0, 0, "where the secret key goes; the public key to FILE.pub" },
    };
    static const struct option_usage usage = {
        .program = "vas-store",
        .command = "store keygen",
        .example = "store keygen -o worker",
        .synopsis = "store keygen -o FILE",
        .summary = "Makes a key pair.  FILE is for its owner only (--key), FILE.pub for the other side: workers get the store's\n"
                   "(--store-key), the store gets those of its workers (--allow).",
        .exit_codes = "  0   done\n  64  usage\n  69  this ZeroMQ knows no keys\n  73  a file is there already\n"
                      "  74  it could not be written\n",
    };
    int first = options_parse(&usage, specs, COUNT_OF(specs), argc, argv);
    if (first < argc)
        options_refuse("unexpected operand \"%s\"", argv[first]);
    if (path == NULL)
        options_refuse("--output is missing: where does the key go?");
    return curve_make(path);
}
