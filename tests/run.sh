#!/bin/sh
# run.sh - builds everything and runs every test; the last line is "N passed, N failed, N skipped".
#
#     tests/run.sh [PATTERN]      only test programs whose path contains PATTERN; without the sanitizers
#
# Every test prints lines "ok NAME", "not ok NAME: why" or "skip NAME: why".  A program that ends badly without
# saying so counts as failed.  First the tests with the ordinary build, then the C tests and fuzzers again under
# AddressSanitizer and UndefinedBehaviorSanitizer.  Logs of failed programs are shown.
set -u
cd "$(dirname "$0")/.."
pattern=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 75' INT TERM HUP
: >"$work/lines"

# run NAME SECONDS COMMAND...
run() {
    name=$1 limit=$2
    shift 2
    case $name in *"$pattern"*) ;; *) return ;; esac
    : >"$work/matched"
    code=0
    timeout -k 10 "$limit" "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
    grep -E '^(ok|not ok|skip) ' "$work/out" >"$work/mine" || :
    if [ "$code" != 0 ] && ! grep -q '^not ok ' "$work/mine"; then
        reason="ended with code $code"
        [ "$code" != 124 ] || reason="took longer than $limit s"
        echo "not ok $name: $reason" >>"$work/mine"
    fi
    [ -s "$work/mine" ] || echo "not ok $name: ran no test" >"$work/mine"
    printf '%s: %s ok\n' "$name" "$(grep -c '^ok ' "$work/mine")"
    grep -v '^ok ' "$work/mine"
    if grep -q '^not ok ' "$work/mine"; then
        tail -n 40 "$work/err" | sed 's/^/    /'
    fi
    cat "$work/mine" >>"$work/lines"
}

build() {  # build NAME MAKE-ARGUMENTS...
    name=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        echo "ok build $name" | tee -a "$work/lines"
    else
        tail -n 30 "$work/out" | sed 's/^/    /'
        echo "not ok build $name" | tee -a "$work/lines"
        return 1
    fi
}

fuzz_all() {  # fuzz_all BUILD DAMAGES
    for source in tests/fuzz/fuzz_*.c; do
        fuzzer=$(basename "$source" .c)
        run "$1/$fuzzer" 300 "$1/tests/fuzz/$fuzzer" -n "$2" tests/fuzz/corpus/"${fuzzer#fuzz_}"/*
    done
}

c_tests() {  # c_tests BUILD
    for source in tests/unit/test_*.c tests/grad/test_*.c tests/parity/test_*.c tests/stage/test_*.c tests/fault/test_*.c; do
        [ -f "$source" ] || continue
        run "$1/${source%.c}" 600 "$1/${source%.c}"
    done
}

jobs=$(nproc)
if pipelines/setup.sh help >&2 && build "gcc, warnings are errors" make -s \
    -j"$jobs" CFLAGS='-O2 -g -Werror' BUILD=build-test BIN=build-test/bin test-programs; then
    BUILD=build-test BIN=$PWD/build-test/bin
    export BUILD BIN
    c_tests build-test
    for script in tests/stage/*.sh tests/pipe/*.sh tests/fault/*.sh; do
        [ -f "$script" ] || continue
        run "$script" 900 sh "$script"
    done
    fuzz_all build-test 2000
    [ -f "$work/matched" ] || echo "not ok run.sh: no test has \"$pattern\" in its path" >>"$work/lines"
else
    echo "not ok build" >>"$work/lines"
fi

if [ -z "$pattern" ]; then
    if build "gcc with sanitizers" make -s -j"$jobs" \
        CFLAGS='-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer' \
        BUILD=build-asan BIN=build-asan/bin test-programs; then
        BUILD=build-asan BIN=$PWD/build-asan/bin
        c_tests build-asan
        for script in tests/pipe/*.sh; do
            [ -f "$script" ] || continue
            run "$script (sanitizers)" 900 sh "$script"
        done
        fuzz_all build-asan 500
    fi
    if command -v clang >/dev/null; then
        build "clang, warnings are errors" make -s \
            -j"$jobs" CC=clang CFLAGS='-O1 -Werror' BUILD=build-clang BIN=build-clang/bin test-programs || :
    else
        echo "skip build clang: clang is not installed" | tee -a "$work/lines"
    fi
fi

passed=$(grep -c '^ok ' "$work/lines")
failed=$(grep -c '^not ok ' "$work/lines")
skipped=$(grep -c '^skip ' "$work/lines")
if [ "$failed" != 0 ] || [ "$skipped" != 0 ]; then
    grep -v '^ok ' "$work/lines"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
