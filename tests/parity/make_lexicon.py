"""What the lexicon scorer must say, by Python's own regular expressions and lower-casing.

    python3 tests/parity/make_lexicon.py vader_lexicon.txt > tests/parity/lexicon.json

The score of a response is s / sqrt(s*s + 15), s the sum of the valences of the words [a-z']+ of the lower-cased
response; of a word that stands twice in the file the last valence counts.
"""
import hashlib, json, math, re, sys

content = open(sys.argv[1], "rb").read()
valence = {}
for line in content.decode("utf-8").split("\n"):
    if line:
        fields = line.split("\t")
        valence[fields[0]] = float(fields[1])


def score(text):
    s = 0.0
    for word in re.findall(r"[a-z']+", text.lower()):
        s += valence.get(word, 0.0)
    return s / math.sqrt(s * s + 15)


texts = [
    "",
    "Once upon a time there was a happy little girl. She loved to play with her best friend!",
    "The dog was sad. He cried and cried, and nobody helped him; it was a terrible, horrible day.",
    "GREAT!!! great Great gReAt",
    "lol ok fav lmao muah sob",  # each stands twice in VADER, with two valences
    "can't won't don't 'good' good' 'bad",
    "good-bad/good_bad\tgood\nbad\r\ngood",
    ":) :-( :D <3 $: %-)",
    "h\u00e4ppy happy\u00e9 \u00fcber-happy caf\u00e9 love\u2019s love\u2014hate",
    "\u212aind \u212a\u212a kin\u212a \u212aILL",  # the Kelvin sign, whose lower case is k
    "k\u0130ll \u0130ll k\u0130nd \u0130",  # capital i with a dot, whose lower case is i and a combining dot
    "\u0391\u03a3 \u03a3 love \u03a3\u0391\u03a3 \u1e9e hate \u01c5 win",
    "\U0001f600 happy\U0001f600sad \ufffdlove\ufffd \u202ehate\u202c",
    "love " * 500,
    "hate kill death murder war " * 40,
    "the cat sat on the mat",
]
json.dump({"lexicon_sha256": hashlib.sha256(content).hexdigest(), "cases": [{"response": t, "score": score(t)} for t in texts]},
          sys.stdout, indent=1)
print()
