# rounds.awk - medians of interleaved rounds: reads "ROUND WHAT FIGURE" lines, prints the median of each WHAT and then of ratios.
#
#     awk -v ratios='LABEL=A/B ...' -f tests/bench/rounds.awk
#
# A ratio is that of its round; "+-" is half the distance of the quartiles.  Those that lack a side are left out.

function sort(list, n,    i, j, x) {
    for (i = 2; i <= n; i++) {
        x = list[i]
        for (j = i - 1; j >= 1 && list[j] > x; j--)
            list[j + 1] = list[j]
        list[j + 1] = x
    }
}

# Of list[1 .. n].
function summary(list, n) {
    sort(list, n)
    return sprintf("%12.2f +- %.2f", list[int((n + 1) / 2)], (list[int((3 * n + 3) / 4)] - list[int((n + 3) / 4)]) / 2)
}

{
    if (!($2 in known)) {
        known[$2]
        names[++count] = $2
    }
    figure[$1, $2] = $3 + 0
    rounds = $1 > rounds ? $1 : rounds
}

END {
    for (i = 1; i <= count; i++) {
        n = 0
        for (round = 1; round <= rounds; round++)
            if ((round, names[i]) in figure)
                list[++n] = figure[round, names[i]]
        printf "%-32s %s\n", names[i], summary(list, n)
    }
    wanted = split(ratios, ratio, " ")
    for (i = 1; i <= wanted; i++) {
        split(ratio[i], part, "[=/]")
        n = 0
        for (round = 1; round <= rounds; round++)
            if ((round, part[2]) in figure && (round, part[3]) in figure)
                list[++n] = figure[round, part[2]] / figure[round, part[3]]
        if (n > 0)
            printf "%-32s %s\n", part[1], summary(list, n)
    }
}
