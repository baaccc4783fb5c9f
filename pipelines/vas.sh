#!/bin/sh
# vas - runs one of the programs: vas tokenize ..., vas rollout ..., and so on.  'make install' fills in where they are.
libexec=@LIBEXEC@
program=${1:-}
case $program in
'' | -h | --help)
    echo "usage: vas PROGRAM [ARGUMENT...]; each program has --help.  Programs:"
    ls "$libexec"
    exit 0 ;;
*/*) ;;
*)
    if [ -x "$libexec/$program" ]; then
        shift
        exec "$libexec/$program" "$@"
    fi ;;
esac
echo "vas: unknown program \"$program\"" >&2
echo "hint: 'vas --help' lists them" >&2
exit 64
