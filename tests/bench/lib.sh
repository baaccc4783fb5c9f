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

# bench_config NAME CHANNELS FEED_FORWARD LAYERS HEADS: the directory $work/NAME.config of a model to be made.
bench_config() {
    mkdir -p "$work/$1.config"
    cp "$work"/tokenizer/* "$work/$1.config"
    cat >"$work/$1.config/config.json" <<JSON
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "vocab_size": 32000, "hidden_size": $2, "intermediate_size": $3, "num_hidden_layers": $4,
  "num_attention_heads": $5, "num_key_value_heads": $5, "max_position_embeddings": 4096,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true
}
JSON
}

# bench_models: $work/base, of 512 channels and 8 layers, and $work/value, of 288 and 6, 32000 tokens, nearly random weights;
# and $work/stories.jsonl.
bench_models() {
    [ -f "$work/value/model.safetensors" ] && return
    awk -v count=100 -v seed=1 -f pipelines/stories.awk >"$work/stories.jsonl"
    tokenize -q --train-vocab 300 --field text -o "$work/tokenizer" "$work/stories.jsonl"
    bench_config base 512 1376 8 8
    bench_config value 288 768 6 6
    head -n 1 "$work/stories.jsonl" | tokenize -q -m "$work/base.config" --field text --end-token |
        train -q -m "$work/base.config" --from-scratch --objective lm --batch 1 --epochs 1 -o "$work/base"
    echo '{"prompt": "One day", "response": " Mia was happy.", "score": 1}' >"$work/scored.jsonl"
    tokenize -q -m "$work/value.config" --format rollouts "$work/scored.jsonl" | value-target -q |
        train -q -m "$work/value.config" --from-scratch --batch 1 --epochs 1 -o "$work/value"
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
