# lib.sh - for shell tests: a scratch directory, checks that print "ok NAME" or "not ok NAME: why", and small real models.
#
# Source it at the start of a test that runs from the repository's root.  $scratch is removed at the end unless a check failed;
# then it is kept and named on standard error.

BIN=${BIN:-$PWD/bin}
case $BIN in /*) ;; *) BIN=$PWD/$BIN ;; esac
PATH=$BIN:$PATH
export BIN PATH
unset VAS_STORE VAS_KEY VAS_STORE_KEY
data=${VAS_TEST_DATA:-../shared/data}
scratch=$(mktemp -d)
test_failed=

test_cleanup() {
    test_code=$?
    for test_pid in ${test_pids:-}; do
        kill -KILL "$test_pid" 2>/dev/null
    done
    if [ -n "$test_failed" ] || [ "$test_code" != 0 ]; then
        echo "kept $scratch" >&2
    else
        rm -rf "$scratch"
    fi
    [ -z "$test_failed" ] || exit 1
}
trap test_cleanup EXIT

ok() {
    echo "ok $*"
}

not_ok() {
    echo "not ok $*"
    test_failed=1
}

# check NAME COMMAND...: the command succeeds
check() {
    check_name=$1
    shift
    if "$@" >"$scratch/check.out" 2>&1; then
        ok "$check_name"
    else
        not_ok "$check_name: '$*' failed: $(tail -n 1 "$scratch/check.out")"
    fi
}

# refused NAME CODE PATTERN COMMAND...: exits with CODE, says PATTERN on one line of standard error,
# and no more lines than that and a hint
refused() {
    refused_name=$1 refused_code=$2 refused_pattern=$3
    shift 3
    refused_got=0
    timeout 60 "$@" >"$scratch/refused.out" 2>"$scratch/refused.err" </dev/null || refused_got=$?
    refused_lines=$(grep -vc '^hint: ' "$scratch/refused.err")
    if [ "$refused_got" != "$refused_code" ]; then
        not_ok "$refused_name: '$*' exited with $refused_got, expected $refused_code: $(tail -n 1 "$scratch/refused.err")"
    elif ! grep -q -e "$refused_pattern" "$scratch/refused.err"; then
        not_ok "$refused_name: '$*' did not say '$refused_pattern' but: $(head -n 1 "$scratch/refused.err")"
    elif [ "$refused_lines" != 1 ]; then
        not_ok "$refused_name: '$*' said $refused_lines lines: $(head -n 3 "$scratch/refused.err" | tr '\n' '|')"
    else
        ok "$refused_name"
    fi
}

# same NAME FILE FILE
same() {
    if cmp -s "$2" "$3"; then
        ok "$1"
    else
        not_ok "$1: $2 and $3 differ: $(cmp "$2" "$3" 2>&1 | tail -n 1)"
    fi
}

# until_true COMMAND...: again and again until it succeeds, at most a minute
until_true() {
    until_tries=0
    until "$@"; do
        until_tries=$((until_tries + 1))
        [ $until_tries -lt 1200 ] || return 1
        sleep 0.05
    done
}

# wait_for FILE: until it is there
wait_for() {
    until_true test -e "$1"
}

# store_up DATABASE: a store of its own, at VAS_STORE; its log is beside the database
store_up() {
    VAS_STORE=ipc://$1.sock
    export VAS_STORE
    store serve --db "$1" 2>"$1.log" &
    store_pid=$!
    test_pids="${test_pids:-} $store_pid"
    wait_for "$1.sock"
}

store_down() {
    kill -TERM $store_pid
    wait $store_pid
    unset VAS_STORE
}

# A base policy of a few ten thousand parameters, trained for some seconds on stories of the grammar, so that its texts have
# words that score: $tiny/base.  Made once in each run of the tests (kept beside the build) and real in every part.
tiny=$BIN/.tiny
tiny_model() {
    [ -f "$tiny/base/model.safetensors" ] && return
    rm -rf "$tiny"
    mkdir -p "$tiny/config"
    awk -v count=600 -v seed=1 -f pipelines/stories.awk >"$tiny/stories.jsonl"
    awk -v count=48 -v seed=2 -v prompts=1 -f pipelines/stories.awk >"$tiny/prompts.jsonl"
    tokenize -q --train-vocab 320 --field text -o "$tiny/config" "$tiny/stories.jsonl"
    cat >"$tiny/config/config.json" <<'JSON'
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true
}
JSON
    tokenize -q -m "$tiny/config" --field text --end-token "$tiny/stories.jsonl" |
        train -q -m "$tiny/config" --from-scratch --objective lm --batch 16 --epochs 6 --lr 1e-2 -o "$tiny/base"
}

