#!/bin/sh
# bench.sh - how fast the engine is beside llama.cpp, on the same weights, threads and minutes: what, ours, theirs, ratio, share of the limit.
#
#     tests/bench/bench.sh [--types 'F16 Q8_0 Q4_0'] [--cases 'g1 g8 g20 g32 p512 f8'] [--threads 2] [--pairs 5] [--rounds 3]
#                          [--shape tinyllama] [--work build/bench] [--json FILE]
#
# The cases are bench_model.c's: gB one more token of B sequences, pN a prompt of N tokens, fB one more token of B rollouts of one
# prompt.  llama.cpp runs through llama-cpp-python where $VAS_PYTHON (default python3) has it; else that column is empty.
# Each pair runs one after the other, first the one and then the other; figures are medians of the pairs, "+-" half the distance of the
# quartiles of the ratio.  The limit is what reading every weight once a token would allow, at the rate at which memory was read meanwhile.
set -eu
cd "$(dirname "$0")/../.."

BUILD=${BUILD:-build}
BIN=${BIN:-$PWD/bin}
python=${VAS_PYTHON:-python3}
types='F16 Q8_0 Q4_0' cases='g1 g8 g20 g32 p512 f8' threads=2 pairs=5 rounds=3 shape=tinyllama work=$BUILD/bench json=
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || { echo "bench: option \"$1\" needs an argument" >&2; exit 64; }
    case $1 in
    --types) types=$2 ;;
    --cases) cases=$2 ;;
    --threads) threads=$2 ;;
    --pairs) pairs=$2 ;;
    --rounds) rounds=$2 ;;
    --shape) shape=$2 ;;
    --work) work=$2 ;;
    --json) json=$2 ;;
    *) echo "bench: unknown option \"$1\"" >&2; exit 64 ;;
    esac
    shift 2
done
make -s BUILD="$BUILD" BIN="$BIN" bench-programs >&2
mkdir -p "$work"
if "$python" -c 'import llama_cpp' 2>/dev/null; then
    peer=1
else
    peer=
    echo "bench: $python has no llama_cpp: nothing to compare with" >&2
fi

# TYPE CASE WHOSE TOKENS_PER_SECOND, a line each.
: >"$work/figures"
for type in $types; do
    model=$work/$shape-$type.gguf
    [ -f "$model" ] || "$BUILD/tests/bench/make_gguf" "$shape" "$type" "$model"
    echo "$type bytes size $(wc -c <"$model")" >>"$work/figures"
    pair=0
    while [ $pair -lt "$pairs" ]; do
        pair=$((pair + 1))
        echo "bench: $type, pair $pair of $pairs" >&2
        "$BUILD/tests/bench/bench_model" -t "$threads" -r "$rounds" "$model" $cases read |
            awk -v type="$type" '$1 != "load_s" { print type, $1, "ours", $3 }' >>"$work/figures"
        [ -z "$peer" ] || "$python" tests/bench/peer_llama_cpp.py "$model" "$threads" "$rounds" $cases |
            awk -v type="$type" '{ print type, $1, "peer", $2 }' >>"$work/figures"
    done
done

awk -v json="$json" '
    function sorted(list, n,    i, j, x) {
        for (i = 2; i <= n; i++) {
            x = list[i]
            for (j = i - 1; j >= 1 && list[j] > x; j--)
                list[j + 1] = list[j]
            list[j + 1] = x
        }
    }
    function median(key,    list, n, i) {
        n = count[key]
        for (i = 1; i <= n; i++)
            list[i] = figure[key, i]
        sorted(list, n)
        return n ? list[int((n + 1) / 2)] : 0
    }
    {
        key = $1 " " $2 " " $3
        figure[key, ++count[key]] = $4 + 0
        if ($3 == "ours" && $2 != "read" && count[key] == 1)
            line[++lines] = $1 " " $2
    }
    END {
        printf "%-5s %-5s %12s %12s %18s %8s\n", "type", "case", "ours tok/s", "llama.cpp", "ratio", "limit"
        for (l = 1; l <= lines; l++) {
            split(line[l], part, " ")
            ours = median(line[l] " ours"); peer = median(line[l] " peer")
            n = 0
            for (i = 1; i <= count[line[l] " ours"]; i++)
                if (figure[line[l] " peer", i] > 0)
                    ratios[++n] = figure[line[l] " ours", i] / figure[line[l] " peer", i]
            sorted(ratios, n)
            ratio = n ? ratios[int((n + 1) / 2)] : 0
            spread = n ? (ratios[int((3 * n + 3) / 4)] - ratios[int((n + 3) / 4)]) / 2 : 0
            bytes = figure[part[1] " bytes size", 1]; read = median(part[1] " read ours")
            limit = part[2] == "g1" && read > 0 ? ours * bytes / read : 0
            printf "%-5s %-5s %12.2f %12s %18s %8s\n", part[1], part[2], ours, peer ? sprintf("%.2f", peer) : "",
                   n ? sprintf("%.2f +- %.2f", ratio, spread) : "", limit ? sprintf("%.0f %%", 100 * limit) : ""
            text = text (l > 1 ? ",\n" : "") sprintf("  {\"type\": \"%s\", \"case\": \"%s\", \"ours\": %.2f, \"peer\": %.2f, \"ratio\": %.3f, \"spread\": %.3f, \"limit\": %.3f}",
                                                   part[1], part[2], ours, peer, ratio, spread, limit)
        }
        if (json != "")
            printf "[\n%s\n]\n", text >json
    }' "$work/figures"
