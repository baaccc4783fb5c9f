"""Writes common/text/character_tables.h: where the tokenizers library's Unicode tables differ from utf8proc's; or
regex_tables.h: what its regular expressions know that PCRE2 10.42 does not.

    python make_characters.py characters >common/text/character_tables.h
    python make_characters.py regex >common/text/regex_tables.h

Python 3.11, whose unicodedata has PCRE2's Unicode 14, with tokenizers 0.23 and libutf8proc 2.8 where ctypes finds it.  Every
code point is put through the library's own steps.
"""
import ctypes, ctypes.util, sys, unicodedata
from tokenizers import Regex, normalizers as N, pre_tokenizers as P

utf8proc = ctypes.CDLL(ctypes.util.find_library("utf8proc"))
utf8proc.utf8proc_category_string.restype = ctypes.c_char_p
utf8proc.utf8proc_NFKD.restype = ctypes.c_void_p
code_points = [c for c in range(1, 0x110000) if not 0xd800 <= c < 0xe000]
category = {c: utf8proc.utf8proc_category_string(c).decode() for c in code_points}


def bert(**flags):
    all_off = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return N.BertNormalizer(**{**all_off, **flags})


def form(name, text):
    function = getattr(utf8proc, "utf8proc_" + name)
    function.restype = ctypes.c_char_p
    return function(text.encode()).decode()


def removed(normalizer):
    return {c for c in code_points if normalizer.normalize_str(chr(c)) == ""}


def classes(*names):
    return {c for c in code_points if category[c] in names}


def words():
    split = P.Whitespace()
    return {c for c in code_points if len(split.pre_tokenize_str(f"a{chr(c)}a")) == 1}


def punctuation():
    split = P.Punctuation()
    return {c for c in code_points if len(split.pre_tokenize_str(f"a{chr(c)}a")) == 3}


def reorders(decompose, c):
    """Whether the character takes part in the order of marks."""
    return (chr(c) != "\u0334" and decompose(f"a{chr(c)}\u0334").startswith("a\u0334")
            or chr(c) != "\u0345" and decompose(f"a\u0345{chr(c)}").endswith("\u0345"))


def without_form():
    """Characters that utf8proc's normal forms change or reorder and the library's do not; and the parts of U+11938."""
    nfkd, nfd = N.NFKD().normalize_str, N.NFD().normalize_str
    newer = {c for c in code_points if nfkd(chr(c)) != form("NFKD", chr(c))}
    newer |= {c for c in code_points if reorders(lambda text: form("NFD", text), c) and not reorders(nfd, c)}
    return newer | {0x11930, 0x11938}


def lower():
    lowercase = N.Lowercase().normalize_str
    pairs = [(c, ord(lowercase(chr(c)))) for c in code_points
             if c != 0x130 and ord(lowercase(chr(c))) != utf8proc.utf8proc_tolower(c)]
    runs = []
    for c, to in pairs:
        if runs and runs[-1][1] == c - 1 and runs[-1][2] == to - c:
            runs[-1][1] = c
        else:
            runs.append([c, c, to - c])
    return runs


def ranges(characters):
    runs = []
    for c in sorted(characters):
        if runs and runs[-1][1] == c - 1:
            runs[-1][1] = c
        else:
            runs.append([c, c])
    return runs


def table(name, comment, kind, rows):
    print(f"\n/* {comment} */\nstatic const struct {kind} {name}[] = {{")
    line = "   "
    for row in rows:
        cell = " { " + ", ".join(str(n) if i == 2 else f"{n:#x}" for i, n in enumerate(row)) + " },"
        if len(line) + len(cell) > 120:
            print(line)
            line = "   "
        line += cell
    print(line + "\n};")


def write_characters():
    other = removed(bert(clean_text=True))
    nonspacing, combining, punctuated = removed(bert(strip_accents=True)), removed(N.StripAccents()), punctuation()
    ascii_symbols = {c for c in classes("Sm", "Sc", "Sk", "So") if c < 128}
    print("/*\n * character_tables.h - made by tests/parity/make_characters.py: what character.c adds to utf8proc's categories.\n"
          " *\n * xor: characters whose class is the other one of what the category says.\n */")
    table("control_xor", "Cc, Cf, Co", "range", ranges(classes("Cc", "Cf", "Co") ^ (other - {0xfffd}) - {9, 10, 13}))
    table("nonspacing_xor", "Mn", "range", ranges(classes("Mn") ^ nonspacing))
    table("combining_xor", "Mn, Mc, Me", "range", ranges(classes("Mn", "Mc", "Me") ^ combining))
    table("punctuation_xor", "P, and the symbols of ASCII", "range",
          ranges((classes("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po") | ascii_symbols) ^ punctuated))
    table("word_xor", "L, M, Nd, Nl, Pc", "range",
          ranges(classes("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc") ^ words()))
    table("lower_more", "Letters whose small one is at a distance; U+0130 apart", "shift", lower())
    table("formless", "Characters that have no normal form but themselves", "range", ranges(without_form()))


def write_regex():
    """Characters that were not assigned in Unicode 14, by category."""
    assert unicodedata.unidata_version == "14.0.0"
    everything = "".join(map(chr, code_points))
    rows = []
    for name in "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Cf".split():
        known = N.Replace(Regex(rf"\P{{{name}}}"), "").normalize_str(everything)
        rows += [[first, last, f'"{name}"'] for first, last in ranges(ord(c) for c in known if unicodedata.category(c) == "Cn")]
    print("/* regex_tables.h - made by tests/parity/make_characters.py: what Unicode 15 and 16 added, by category. */")
    table("newer", "Oniguruma knows them, PCRE2 10.42 does not", "newer", sorted(rows))


{"characters": write_characters, "regex": write_regex}[sys.argv[1]]()
