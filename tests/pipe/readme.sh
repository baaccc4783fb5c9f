#!/bin/sh
# Goal: every example in README.md works as it is printed there, in the order of the page, and its table of options is true.
set -u
. tests/lib.sh
tiny_model
root=$PWD
hh=tests/parity/hh

# What the page names, and nothing else: the demo's directory on a small scale, programs, pipelines.
here=$scratch/here
mkdir -p "$here/demo" "$scratch/bin" "$scratch/blocks"
cp -r "$tiny/base" "$here/demo/base"
{ head -n 20 "$tiny/prompts.jsonl" | sed 's/"split":"[a-z]*"/"split":"train"/'
  tail -n 4 "$tiny/prompts.jsonl" | sed 's/"split":"[a-z]*"/"split":"eval"/'; } >"$here/demo/prompts.jsonl"
ln -s "$root/pipelines" "$here/pipelines"
gzip -c tests/parity/hh/dialogues.jsonl >"$here/harmless-base.jsonl.gz"

# In the middle of a pipe a failure would stay unseen, so each program but the store, which is killed,
# runs in a script that notes it.
for program in "$BIN"/*; do
    name=$(basename "$program")
    if [ "$name" = store ]; then
        ln -s "$program" "$scratch/bin/store"
        continue
    fi
    cat >"$scratch/bin/$name" <<END
#!/bin/sh
code=0
'$program' "\$@" || code=\$?
[ \$code = 0 ] || echo "$name \$* ended with code \$code" >>'$scratch/failures'
exit \$code
END
    chmod +x "$scratch/bin/$name"
done
ln -s "$scratch/bin" "$here/bin"

# Processes that an example started are known by this variable in their environment.
started_here() {
    grep -alsF "README_TEST=$scratch" /proc/[0-9]*/environ | sed 's|/proc/\([0-9]*\)/.*|\1|'
}

# example NAME COMMAND...: the command and every program in it succeed, and nothing that it started is left.
example() {
    example_name=$1
    shift
    : >"$scratch/failures"
    example_code=0
    README_TEST=$scratch PATH=$scratch/bin:$PATH MAKEFLAGS=n timeout 300 "$@" >"$scratch/out" 2>"$scratch/err" </dev/null ||
        example_code=$?
    tries=0
    while test_pids=$(started_here) && [ -n "$test_pids" ] && [ $tries -lt 50 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    if [ "$example_code" != 0 ]; then
        not_ok "readme: $example_name: ended with code $example_code: $(tail -n 1 "$scratch/err")"
    elif [ -s "$scratch/failures" ]; then
        not_ok "readme: $example_name: $(head -n 1 "$scratch/failures"): $(tail -n 1 "$scratch/err")"
    elif [ -n "$test_pids" ]; then
        not_ok "readme: $example_name: left running: $(tr '\0' ' ' 2>/dev/null <"/proc/${test_pids%%[!0-9]*}/cmdline")"
    else
        ok "readme: $example_name"
    fi
    for pid in $test_pids; do
        kill -KILL "$pid" 2>/dev/null
    done
    test_pids=
}

# The blocks, as if typed into one terminal: what a block exports holds in those after it.
awk -v into="$scratch/blocks" '
    /^```sh$/ { file = sprintf("%s/%02d", into, ++n); next }
    /^```/ { file = "" }
    file { print >file }' README.md
: >"$scratch/environment"
for block in "$scratch"/blocks/*; do
    cat >"$scratch/typed" <<END
cd '$here'
. '$scratch/environment'
set -e
. '$block'
export -p >'$scratch/environment'
END
    example "$(head -n 1 "$block")" sh "$scratch/typed"
done

# The pipelines, on the small model and at small sizes, and what uses their value model.
sed -e :line -e '/\\$/{N;s/\\\n *//;b line' -e '}' README.md | sed -n '/^```console$/,/^```$/s/^\$ //p' |
    grep -E '^(pipelines/(align|replay)\.sh|bin/decode) ' >"$scratch/commands"
while IFS= read -r line <&3; do
    small=$(printf '%s\n' "$line" | sed "s|--model Llama-2-7b-hf|--model $hh/base|
        s|--value-model TinyLlama-1.1B|--value-model $hh/value|
        s|reward-model-deberta-v3-large-v2|$hh/reward|; s|harmless-base.jsonl.gz|$here/&|
        s|TinyLlama-1.1B|$here/demo/base|; s| prompts.jsonl| $here/demo/prompts.jsonl|
        s| ./my_scorer| $here/my_scorer|; s|--work run|--work $here/run|
        s|^bin/||; s|--value run|--value $here/run|")
    case $line in
    pipelines/*) small="$small --samples 2 --eval-samples 2 --base-samples 2 --max-new-tokens 8 --betas 3 --epochs 1" ;;
    esac
    example "$line" sh -c "$small"
done 3<"$scratch/commands"
[ -s "$scratch/commands" ] || not_ok "readme: no pipeline is shown"

# Each option of the command reference is one of its program's.
awk -F ' \\| ' '/^\| `/ && /`-/ {
        options = $NF
        gsub(/^\| |`/, "", $1)
        count = split($1, programs, ", ")
        for (i = 1; i <= count; i++) {
            program = programs[i]
            if (i > 1) {
                sub(/ .*/, "", programs[1])
                program = programs[1] " " program
            }
            rest = options
            while (match(rest, /`--?[a-z-]+/)) {
                print program "|" substr(rest, RSTART + 1, RLENGTH - 1)
                rest = substr(rest, RSTART + RLENGTH)
            }
        }
    }' README.md >"$scratch/options"
missing=
while IFS='|' read -r program option; do
    $program --help 2>/dev/null | grep -qE -e "^ +(-[a-zA-Z], +)?$option( |,|\$)" || missing="$missing, $program $option"
done <"$scratch/options"
[ "$(wc -l <"$scratch/options")" -ge 30 ] && [ -z "$missing" ] &&
    ok "readme: $(wc -l <"$scratch/options") options of the command reference" ||
    not_ok "readme: of $(wc -l <"$scratch/options") options in the command reference --help lacks:${missing#,}"
