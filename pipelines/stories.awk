# stories.awk - a corpus of very short stories from a grammar, one JSON line {"text"} each.
#
#     awk -v count=4000 -v seed=1 -f stories.awk            whole stories
#     awk -v count=400 -v seed=2 -v prompts=1 -f stories.awk   {"prompt","split"}: how such a story begins; the
#         last eighth is split eval
#
# How a story goes on is open: each event may turn out well or badly, and a good turn makes the next a little likelier.  The
# generator is the minimal standard one (Park and Miller), exact in doubles, so every awk writes the same text.

function draw(n) {
    state = (state * 16807) % 2147483647
    return int(state / 2147483647 * n)
}

function pick(list,    words, n) {
    n = split(list, words, "|")
    return words[1 + draw(n)]
}

function chance(percent) {
    return draw(100) < percent
}

function beginning(    s) {
    s = pick("One day|One morning|Once|On a sunny day|On a rainy day|Last night|Long ago") ", "
    who = pick("Mia|Tom|Lily|Ben|Anna|Max|Zoe|Sam|Nora|Leo")
    kind = pick("fox|cat|dog|girl|boy|bird|bear|mouse|rabbit|frog")
    male = who ~ /Tom|Ben|Max|Sam|Leo/
    friend = pick("Ruby|Finn|Ella|Otto|Ivy|Hugo")
    place = pick("the park|the forest|the river|the old house|the garden|the hill|the beach|the market")
    s = s who " the " kind " " pick("went to|walked to|ran to|came to") " " place "."
    return s
}

function he() { return male ? "he" : "she" }
function him() { return male ? "him" : "her" }
function his() { return male ? "his" : "her" }
function He() { return male ? "He" : "She" }

function good_event() {
    thing = pick("ball|kite|cake|boat|flower|toy|book|hat")
    return pick(He() " found a beautiful " thing " and was happy.|" \
        friend " gave " him() " a lovely " thing ".|" \
        "The sun was warm and " he() " loved the " pick("trees|birds|water|sky") ".|" \
        friend " was kind and helped " him() " fix the " thing ".|" \
        "They laughed and played a fun game with the " thing ".|" \
        He() " won a prize, a great big " thing ".|" \
        "\"You are my best friend,\" said " friend ".|" \
        He() " felt brave and " he() " saved the little " pick("duck|bee|snail|kitten") ".")
}

function bad_event() {
    thing = pick("ball|kite|cake|boat|flower|toy|book|hat")
    return pick(He() " lost " his() " " thing " and was sad.|" \
        friend " broke the " thing " and " who " cried.|" \
        "A bad storm came and the " pick("trees|birds|water|sky") " looked scary.|" \
        friend " was mean and took the " thing ".|" \
        "They had an ugly fight about the " thing ".|" \
        He() " fell and hurt " his() " " pick("leg|arm|nose|foot") ".|" \
        "\"I hate you,\" said " friend ".|" \
        He() " was afraid and " he() " hid in a dark " pick("hole|corner|box|cave") ".")
}

function neutral_event() {
    return pick("Then " he() " looked at the " pick("trees|birds|water|sky") ".|" \
        "After that, " he() " sat down next to " friend ".|" \
        who " and " friend " walked along the road.|" \
        "\"What is that?\" asked " friend ".|" \
        "There was a " pick("big|small|red|blue|round") " " pick("box|door|stone|bag") " near " place ".")
}

function ending(mood) {
    if (chance(mood))
        return pick("In the end, everyone was happy.|They went home with a smile.|It was the best day ever.|And " who " slept well and had sweet dreams.")
    return pick("In the end, everyone was sad.|They went home in tears.|It was the worst day ever.|And " who " slept badly and had a terrible dream.")
}

function story(    s, mood, events) {
    s = beginning()
    mood = 50
    events = 2 + draw(3)
    while (events-- > 0) {
        if (chance(35)) {
            s = s " " neutral_event()
        } else if (chance(mood)) {
            s = s " " good_event()
            mood += 10
        } else {
            s = s " " bad_event()
            mood -= 10
        }
    }
    return s " " ending(mood)
}

BEGIN {
    if (count == "") count = 4000
    if (seed == "") seed = 1
    state = 1 + (seed * 48271) % 2147483646
    for (i = 0; i < 10; i++) draw(2)
    for (i = 1; i <= count; i++) {
        if (prompts) {
            text = beginning()
            if (chance(50)) text = text " " neutral_event()
        } else {
            text = story()
        }
        gsub(/"/, "\\\"", text)
        if (prompts)
            printf "{\"prompt\":\"%s\",\"split\":\"%s\"}\n", text, (i > count * 7 / 8 ? "eval" : "train")
        else
            printf "{\"text\":\"%s\"}\n", text
    }
}
