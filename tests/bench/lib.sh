# lib.sh - what measuring scripts share: their options, where programs and peers are, and the figures for table.awk.
#
# Sourced after cd to the repository's top.  The script sets a variable for each of its options, and work, before bench_begin.

name=$(basename "$0")
BUILD=${BUILD:-build}
BIN=${BIN:-$PWD/bin}
PATH=$BIN:$PATH
python=${VAS_PYTHON:-python3}
figures=

# bench_begin OPTIONS ARGUMENTS...: --OPTION X sets $OPTION; builds what is measured; $out is where figures go.
bench_begin() {
    known=" $1 work figures "
    shift
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || { echo "$name: option \"$1\" needs an argument" >&2; exit 64; }
        option=${1#--}
        case $known in
        *" $option "*) [ "--$option" = "$1" ] ;;
        *) false ;;
        esac || { echo "$name: unknown option \"$1\"" >&2; exit 64; }
        eval "$option=\$2"
        shift 2
    done
    make -s BUILD="$BUILD" BIN="$BIN" bench-programs >&2
    mkdir -p "$work"
    out=${figures:-$work/${name%.sh}.figures}
    [ -n "$figures" ] || : >"$out"
}

# has_python MODULE: whether $python can be the peer; says so where it cannot.
has_python() {
    "$python" -c "import $1" 2>/dev/null && return
    echo "$name: $python has no $1: nothing to compare with" >&2
    return 1
}

# Unless another script prints one of its figures and others.
bench_table() {
    [ -n "$figures" ] || awk -f tests/bench/table.awk "$out"
}
