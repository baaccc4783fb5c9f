# table.awk - a table of figures that were measured in rounds, ours beside others', from lines of ROUND, WHAT, WHOSE and FIGURE with
# tabs between.
#
#     awk [-v json=FILE] -f tests/bench/table.awk FIGURES
#
# WHOSE is "ours", the name of a peer, or "limit": the most that the machine allows.  Figures are medians; a ratio is that of ours to the
# peer's of the same round, "+-" half the distance of its quartiles.  json gets the same.

BEGIN {
    FS = "\t"
}

function sort(list, n,    i, j, x) {
    for (i = 2; i <= n; i++) {
        x = list[i]
        for (j = i - 1; j >= 1 && list[j] > x; j--)
            list[j + 1] = list[j]
        list[j + 1] = x
    }
}

# Fills list with what all rounds have of a side, or of ours in relation to it, and returns how many; sorted.
function collect(list, what, whose, relative,    round, n) {
    for (round = 1; round <= rounds; round++)
        if ((what, whose, round) in figure && (!relative || (what, "ours", round) in figure))
            list[++n] = relative ? figure[what, "ours", round] / figure[what, whose, round] : figure[what, whose, round]
    sort(list, n)
    return n
}

function median(list, n) {
    return n ? list[int((n + 1) / 2)] : 0
}

function row(what, whose,    list, n, ours, peer, ratio, spread, limit) {
    ours = median(list, collect(list, what, "ours", 0))
    if (whose != "") {
        peer = median(list, collect(list, what, whose, 0))
        n = collect(list, what, whose, 1)
        ratio = median(list, n)
        spread = n ? (list[int((3 * n + 3) / 4)] - list[int((n + 3) / 4)]) / 2 : 0
    }
    limit = median(list, collect(list, what, "limit", 1))
    printf "%-34s %10.4g  %-28s %10s %16s %8s\n", what, ours, whose, whose != "" ? sprintf("%.4g", peer) : "",
           whose != "" ? sprintf("%.2f +- %.2f", ratio, spread) : "", limit ? sprintf("%.0f %%", 100 * limit) : ""
    text = text (text != "" ? ",\n" : "") sprintf("  {\"what\": \"%s\", \"ours\": %.6g", what, ours)
    if (whose != "")
        text = text sprintf(", \"peer\": \"%s\", \"peers\": %.6g, \"ratio\": %.4g, \"spread\": %.4g", whose, peer, ratio, spread)
    text = text (limit ? sprintf(", \"limit\": %.4g", limit) : "") "}"
}

{
    if (!($2 in peers)) {
        peers[$2] = 0
        whats[++count] = $2
    }
    if ($3 != "ours" && $3 != "limit" && !(($2, $3) in known)) {
        known[$2, $3]
        peer_of[$2, ++peers[$2]] = $3
    }
    figure[$2, $3, $1] = $4 + 0
    rounds = $1 + 0 > rounds ? $1 + 0 : rounds
}

END {
    printf "%-34s %10s  %-28s %10s %16s %8s\n", "tokens/s of", "ours", "peer", "peer's", "ratio", "limit"
    for (i = 1; i <= count; i++) {
        if (peers[whats[i]] == 0)
            row(whats[i], "")
        for (p = 1; p <= peers[whats[i]]; p++)
            row(whats[i], peer_of[whats[i], p])
    }
    if (json != "")
        printf "[\n%s\n]\n", text >json
}
