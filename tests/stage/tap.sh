#!/bin/sh
# tap.sh - tap on frames that Python wrote (tests/fuzz/corpus/frame), and the tables that it makes.
set -u
bin=${BIN:-bin}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# expect NAME COMMAND...: passes when the command succeeds
expect() {
    name=$1
    shift
    if "$@"; then
        echo "ok $name"
    else
        echo "not ok $name: $* failed"
    fi
}

# The tables in schemas/README.md are those of frames.def.
"$bin/tap" --schema >"$work/tables"
sed '1,/^Besides these fields/d' schemas/README.md | sed 1d >"$work/documented"
expect tap_schema_is_documented cmp "$work/tables" "$work/documented"

# Every frame is one line, in order.
cat tests/fuzz/corpus/frame/*.frame >"$work/frames"
"$bin/tap" <"$work/frames" >"$work/lines"
expect tap_exits_0 test $? = 0
sed 's/^{"type":"\([a-z]*\)".*}$/\1/' "$work/lines" >"$work/types"
(cd tests/fuzz/corpus/frame && ls ./*.frame) | sed 's/^\.\/\([a-z]*\).*/\1/' >"$work/expected"
expect tap_prints_every_frame cmp "$work/types" "$work/expected"

# In the middle of a pipe nothing is changed, and the same lines are shown.
"$bin/tap" --pass <"$work/frames" >"$work/copy" 2>"$work/shown"
expect tap_pass_copies cmp "$work/frames" "$work/copy"
expect tap_pass_shows cmp "$work/lines" "$work/shown"

# A cut stream is 65 after what was whole; nonsense too; a frame beyond its limits is named and skipped.
size=$(wc -c <"$work/frames")
head -c $((size - 1)) "$work/frames" | "$bin/tap" >"$work/cut" 2>"$work/error"
expect tap_cut_exits_65 test $? = 65
expect tap_cut_prints_the_rest test "$(wc -l <"$work/cut")" = $(($(wc -l <"$work/lines") - 1))
expect tap_cut_says_where grep -q 'ends inside the frame at byte [0-9]*, after [0-9]* bytes of it' "$work/error"
echo '{"prompt":"Once"}' | "$bin/tap" >"$work/none" 2>"$work/error"
expect tap_nonsense_exits_65 test $? = 65
expect tap_nonsense_says_where grep -q 'at byte 0 is not a frame' "$work/error"
{ printf '\203\241v\001\244type\244beat\244held\377'; cat tests/fuzz/corpus/frame/bye_1.frame; } |
    "$bin/tap" >"$work/one" 2>"$work/error"
expect tap_limit_exits_65 test $? = 65
expect tap_limit_says_what grep -q 'frame at byte 0: beat frame: field "held" is -1, must be from 0 to' "$work/error"
expect tap_limit_goes_on grep -qx '{"type":"bye"}' "$work/one"

# Usage.
"$bin/tap" file </dev/null 2>"$work/error"
expect tap_operand_exits_64 test $? = 64
"$bin/tap" --help | head -n 1 >"$work/help"
expect tap_help_begins_with_example grep -q '^example: .*tap' "$work/help"
