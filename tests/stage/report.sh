#!/bin/sh
# Goal: report says what the store holds: numbers worked by hand, hostile texts kept harmless, gaps named, a page that is whole.
set -u
. tests/lib.sh
tiny_model
db=$scratch/run.db

start() {
    store serve -q --db "$db" --listen "ipc://$scratch/sock" 2>>"$scratch/store.log" &
    test_pids=$!
    wait_for "$scratch/sock"
    VAS_STORE=ipc://$scratch/sock
    export VAS_STORE
}
says() {  # says NAME PATTERN FILE
    grep -q -e "$2" "$3" && ok "$1" || not_ok "$1: no line like '$2' in: $(head -c 300 "$3" | tr '\n' '|')"
}
lacks() {  # lacks NAME PATTERN FILE
    grep -q -e "$2" "$3" && not_ok "$1: there is a line like '$2': $(grep -m 1 -e "$2" "$3" | head -c 200)" || ok "$1"
}
page_is_whole() {  # page_is_whole NAME: the page ends, is UTF-8, has no script and no control characters
    if [ "$(tail -n 1 "$scratch/page.html")" != '</body></html>' ]; then
        not_ok "$1: the page does not end"
    elif ! iconv -f UTF-8 -t UTF-8 "$scratch/page.html" >/dev/null 2>&1; then
        not_ok "$1: the page is not UTF-8"
    elif grep -q '<script\|<img\|onerror="\|http://\|https://' "$scratch/page.html" ||
        [ "$(tr -d '\t\n\040-\377' <"$scratch/page.html" | wc -c)" != 0 ]; then
        not_ok "$1: the page has what it must not have"
    else
        ok "$1"
    fi
}
report_page() {
    report --db "$db" -o "$scratch/page.html" "$@" >"$scratch/text" 2>"$scratch/err"
}

start
check "an empty store can be reported" report_page
says "it says what is missing" 'no prompts yet' "$scratch/text"
page_is_whole "its page is whole"

# Three prompts, four samples each.  Means 2.5, 0, 0: in all 0.8333, its error 4.3027 * sqrt(2.0833 / 3) = 3.586.
# Best of 2: 20/6, 0, 4/6, in the mean 1.333; best of 4: 4, 0, 1, in the mean 1.667.
awk 'BEGIN {
    split("1 2 3 4 0 0 0 0 -1 1 -1 1", score, " ")
    for (i = 0; i < 12; i++)
        printf "{\"prompt\":\"One day %s\",\"response\":\"went number %d.\",\"score\":%d,\"split\":\"eval\"}\n",
            substr("ABC", int(i / 4) + 1, 1), i, score[i + 1]
}' >"$scratch/rollouts.jsonl"
tokenize -q -m "$tiny/base" --format rollouts --policy old --reward hand "$scratch/rollouts.jsonl"
check "imported rollouts can be reported" report_page
says "mean and clustered error" '^old  *12  *0\.833 ± 3\.586 ' "$scratch/text"
says "best of 2" '^best of 2  *1\.333 ± [0-9.]*  *<= 0\.193$' "$scratch/text"
says "best of 4" '^best of 4  *1\.667 ± [0-9.]*  *<= 0\.636$' "$scratch/text"
lacks "best of 8 needs 8 samples" 'best of 8' "$scratch/text"
lacks "nothing is missing" 'incomplete' "$scratch/text"

# Texts that want to be markup, to move the cursor, to turn the direction of writing.
cat >"$scratch/hostile.jsonl" <<'JSON'
{"prompt":"</bdi><script>alert(1)</script>","response":"<img src=x onerror=alert(2)> \u001b[2J\u001b]0;x\u0007 \u202eabc & \"q\" 'r' </style>","score":0.5,"split":"hostile"}
{"prompt":"\u202eother","response":"second\r\n\tline \u0085 \u200f","score":-1e30,"split":"hostile"}
JSON
tokenize -q -m "$tiny/base" --format rollouts --policy '<b>"o&ld"' --reward "a'<i>" "$scratch/hostile.jsonl"
check "hostile texts can be reported" report_page --split hostile
page_is_whole "they do the page no harm"
says "they are shown" '&lt;img src=x onerror=alert(2)&gt;' "$scratch/page.html"
check "they do the terminal no harm" test "$(tr -d '\n\040-\176\200-\377' <"$scratch/text" | wc -c)" = 0
report --db "$db" --split hostile --json >"$scratch/hostile.json"
says "JSON keeps them as they are" '\\u001[bB]\[2J' "$scratch/hostile.json"

store backup -q --db "$db" -o "$scratch/other.db" && cp "$scratch/other.db" "$scratch/before.db"
refused "a page does not replace the store" 73 'other.db" is a database' report --db "$scratch/other.db" -o "$scratch/other.db"
same "which is as it was" "$scratch/before.db" "$scratch/other.db"

# A base policy, a value model, two strengths; scores of one policy are missing.
count='while IFS= read -r line; do echo "${#line}"; done'
for who in Mia Tom Lily Ben Anna Max Zoe Sam; do
    echo "{\"prompt\":\"One day, $who the fox\",\"split\":\"test\"}"
done >"$scratch/prompts.jsonl"
tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl"
(unset VAS_STORE
 tokenize -q -m "$tiny/base" "$scratch/prompts.jsonl" | rollout -q -m "$tiny/base" -n 4 --max-new-tokens 16 |
    reward -q --name long --exec "$count" --scale 0.1 | value-target -q |
    train -q -m "$tiny/base" --batch 8 --epochs 4 --lr 3e-3 -o "$scratch/value" >/dev/null)
rollout -q -m "$tiny/base" -n 4 --split test --max-new-tokens 16
for beta in 2 30; do
    decode -q -m "$tiny/base" --value "$scratch/value:$beta" --policy "long $beta" --split test -n 2 --max-new-tokens 16
done
reward -q --name long --exec "$count" --scale 0.1 --split test
decode -q -m "$tiny/base" --value "$scratch/value:5" --policy "long 5" --split test -n 2 --max-new-tokens 16
check "steered policies can be reported" report_page --split test --reward long
page_is_whole "their page is whole"
says "a policy without scores is named" '^without any score: long 5$' "$scratch/text"
says "samples stand side by side" '^\[base: .*\[long 30: ' "$scratch/text"
says "the page has the points" 'β 30' "$scratch/page.html"
sed -n 's/.*<td class="quiet">policy<.td><td><bdi>\(long [0-9]*\)<.*/\1/p' "$scratch/page.html" | tr '\n' , >"$scratch/order"
check "settings name the strengths in their order" grep -qx 'long 2,long 5,long 30,' "$scratch/order"
says "settings are shown as they were typed" 'scale</span>&nbsp;<code>0\.1</code>' "$scratch/page.html"
awk '/^base/ { b = NR } /^best of 2/ { n = NR } /^long 2 / { s = NR } /^long 30/ { t = NR }
    END { exit !(b && b < n && n < s && s < t) }' "$scratch/text" &&
    ok "base, best of n, steered by KL" || not_ok "base, best of n, steered by KL: $(cut -c1-20 "$scratch/text" | tr '\n' '|')"

# The same means from the exported rollouts.
report --db "$db" --split test --reward long --json >"$scratch/report.json"
for policy in base 'long 2' 'long 30'; do
    store export --db "$db" --policy "$policy" --reward long --split test |
        sed 's/.*"score":\([-+.0-9e]*\).*/\1/' | awk '{ sum += $1 } END { printf "%.6f\n", sum / NR }' >"$scratch/expected"
    sed 's/"policy":"/\n&/g' "$scratch/report.json" | grep -m 1 "^\"policy\":\"$policy\",\"prompts\"" |
        sed 's/.*"score":{"error95":[-+.0-9e]*,"mean":\([-+.0-9e]*\)}.*/\1/' | awk '{ printf "%.6f\n", $1 }' >"$scratch/found"
    same "mean score of $policy equals that of its export" "$scratch/expected" "$scratch/found"
done

# Fewer samples of more prompts: those that the first prompts have too many of make up for nothing.
rollout -q -m "$tiny/base" -n 1 --split test --max-new-tokens 16
echo '{"prompt":"One day, Kim the fox","split":"test"}' | tokenize -q -m "$tiny/base"
report --db "$db" --split test --reward long >"$scratch/text"
says "a response that is missing is named" '^incomplete: base, 1 responses missing$' "$scratch/text"

# What is steered from another base than the others, or sampled from another policy, has no distance from theirs.
decode -q -m "$tiny/base" --value "$scratch/value:2" --temperature 0.5 --policy cold --split test -n 2 --max-new-tokens 16
rollout -q -m "$tiny/base" --policy warm --temperature 1.5 --split test -n 2 --max-new-tokens 16
reward -q --name long --exec "$count" --scale 0.1 --split test
report --db "$db" --split test --reward long >"$scratch/text"
says "another unsteered policy has no KL" '^warm  *[0-9]*  *[-0-9.]* ± [0-9.]*  *-  ' "$scratch/text"
says "a policy steered from another base has no KL" '^cold  *[0-9]*  *[-0-9.]* ± [0-9.]*  *-  ' "$scratch/text"
says "one steered from the base has" '^long 30  *[0-9]*  *[-0-9.]* ± [0-9.]*  *[0-9.]* ± [0-9.]* ' "$scratch/text"

# A worker that mostly waits does not change the rate by more than a busy machine may.
ask() {  # ask COUNT WORD: so many prompts
    seq "$1" | sed "s/.*/{\"prompt\":\"$2 &\",\"split\":\"idle\"}/" | tokenize -q -m "$tiny/base"
}
rate() {
    reward -q --name long --exec "$count" --scale 0.1 --split idle
    report --db "$db" --split idle --reward long --json | sed -n 's/.*"policy":"base".*"tokens_per_s":\([0-9]*\).*/\1/p'
}
ask 100 Once
rollout -q -m "$tiny/base" -n 4 --split idle --max-new-tokens 16
before=$(rate)
ask 1 Then
rollout -q -m "$tiny/base" -n 4 --split idle --max-new-tokens 16 --follow &
follower=$!
until_true sh -c "[ \$(store export --db '$db' --policy base | grep -c '\"Then 1\"') = 4 ]"
sleep 3
kill -TERM $follower
wait $follower
after=$(rate)
[ $((3 * ${after:-0})) -gt "${before:-1}" ] && ok "a worker that waits is not slow: $before and $after tokens/s" ||
    not_ok "a worker that waits makes $after of $before tokens/s"

for i in 1 2 3; do
    echo "{\"prompt\":\"One $i\",\"response\":\" day\",\"score\":-1e20,\"split\":\"equal\"}"
done | tokenize -q -m "$tiny/base" --format rollouts --policy same --reward flat
check "large scores that are all equal can be reported" report_page --split equal --reward flat
page_is_whole "their page is whole too"

refused "a reward that is not there" 65 'no reward "nothing"' report --db "$db" --reward nothing
refused "a page that cannot be written" 74 'nowhere' report --db "$db" -o "$scratch/nowhere/page.html"
report --db "$db" --split nothing >"$scratch/text"
says "a split that is not there" 'no prompts of split "nothing"; it has: ' "$scratch/text"
