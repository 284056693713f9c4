#!/usr/bin/env python3
"""Writes src/tokenizer/unicode_*.inc: what the `tokenizers` package takes each code point for.

usage: make_unicode_tables.py      (needs pip install tokenizers==0.23.3)

The package uses several versions of Unicode at once: its regular expressions (Oniguruma) 16.0, char::is_numeric of the
Rust that built it 17.0, its NFC 9.0. The same ids need the same tables, so the package itself is asked. Python's
unicodedata (any version from 9.0 on) only says what to ask: decompositions and combining classes of characters as old
as that do not change.
"""
import pathlib
import sys
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

VERSION = "0.23.3"
CATEGORIES = ["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
              "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cs", "Cn"]  # as kCategoryNames has them
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def removed_by(splitter) -> set[int]:
    removed = set()
    for i in range(0, len(CODE_POINTS), 4096):
        chunk = CODE_POINTS[i:i + 4096]
        kept = set()
        for _, (begin, end) in splitter.pre_tokenize_str("".join(map(chr, chunk))):
            kept.update(range(begin, end))
        removed.update(c for k, c in enumerate(chunk) if k not in kept)
    return removed


def matched_by(pattern: str) -> set[int]:
    return removed_by(pre_tokenizers.Split(Regex(pattern), "removed"))


def numeric() -> set[int]:
    """What Digits isolates; its neighbours here are letters, which it does not."""
    found = set()
    digits = pre_tokenizers.Digits(individual_digits=True)
    for i in range(0, len(CODE_POINTS), 4096):
        for piece, _ in digits.pre_tokenize_str("aa" + "aa".join(map(chr, CODE_POINTS[i:i + 4096])) + "aa"):
            if len(piece) == 1:
                found.add(ord(piece))
    return found


def word_beside_added_token() -> set[int]:
    """What keeps an added token with single_word from matching: beside "<x>", these characters do."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer.add_tokens([AddedToken("<x>", single_word=True, normalized=False)])
    found = set()
    for i in range(0, len(CODE_POINTS), 4096):
        chunk = CODE_POINTS[i:i + 4096]
        matched = {begin for begin, _ in tokenizer.encode("".join(f"{chr(c)}<x> " for c in chunk)).offsets}
        found.update(c for k, c in enumerate(chunk) if 5 * k + 1 not in matched)
    return found


def compositions() -> list[tuple[int, int, int, bool]]:
    """(code point, first, second or 0, is it what the pair becomes again), Hangul syllables left out."""
    nfc, nfd = normalizers.NFC(), normalizers.NFD()
    found = []
    for c in CODE_POINTS:
        parts = unicodedata.decomposition(chr(c))
        if not parts or parts.startswith("<") or nfd.normalize_str(chr(c)) == chr(c):
            continue
        pair = [int(part, 16) for part in parts.split()]
        text = "".join(map(chr, pair))
        found.append((c, pair[0], pair[1] if len(pair) > 1 else 0, nfc.normalize_str(text) == chr(c)))
    return found


def combining_classes() -> dict[int, int]:
    """Of the characters that NFD puts in order; classes of the others are 0."""
    nfd = normalizers.NFD()
    found = {}
    for c in CODE_POINTS:
        combining_class = unicodedata.combining(chr(c))
        lower, higher = "\u0334", "\u0345"  # classes 1 and 240
        if combining_class == 0:
            continue
        swapped = "a" + chr(c) + lower if combining_class > 1 else "a" + higher + chr(c)
        if nfd.normalize_str(swapped) != swapped:
            found[c] = combining_class
    return found


def ranges(members: set[int]) -> list[tuple[int, int]]:
    found: list[list[int]] = []
    for c in sorted(members):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return [tuple(one) for one in found]


def array(comment: str, declaration: str, numbers: list[str]) -> str:
    lines = [f"\n// {comment}", f"{declaration} = {{", ""]
    for number in numbers:
        if len(lines[-1]) + len(number) + 1 > 120:
            lines.append("")
        lines[-1] += number + ","
    return "\n".join(lines) + "\n};\n"


def write(name: str, arrays: list[str]) -> None:
    head = (f"// Written by scripts/make_unicode_tables.py with tokenizers {VERSION}; do not edit.\n"
            "// clang-format off\n")
    path = pathlib.Path(__file__).parent.parent / "src" / "tokenizer" / name
    path.write_text(head + "".join(arrays))


def main() -> None:
    if tokenizers.__version__ != VERSION:
        sys.exit(f"error: tokenizers is {tokenizers.__version__}, not {VERSION}")
    category = {c: name for name in CATEGORIES[:-2] for c in matched_by(rf"\p{{{name}}}")}
    runs: list[list] = []
    for c in range(0x110000):
        name = "Cs" if 0xD800 <= c < 0xE000 else category.get(c, "Cn")
        if runs and runs[-1][1] == name:
            runs[-1][0] += 1
        else:
            runs.append([1, name])
    of_categories = {c for c in category if category[c][0] in "LM" or category[c] in ("Nd", "Nl", "Pc")}
    bare_word, word, rust_word = matched_by(r"\w"), matched_by(r"[\w]"), word_beside_added_token()

    assert of_categories <= word <= bare_word and of_categories <= rust_word
    sets = {
        "kWhiteSpace": (r"\s of the patterns, and what an added token strips.", matched_by(r"\s")),
        "kWordExtras": (r"\w of the patterns, within brackets, beyond L, M, Nd, Nl and Pc.", word - of_categories),
        "kBareWordExtras": (r"\w outside brackets beyond that.", bare_word - word),
        "kAddedTokenWordExtras": ("Word characters beside an added token, beyond L, M, Nd, Nl and Pc.",
                                  rust_word - of_categories),
        "kNumericExtras": ("What the pre-tokenizer Digits splits at, beyond N.",
                           numeric() - {c for c in category if category[c][0] == "N"}),
    }
    write("unicode_categories.inc", [
        array("General categories: length of the run * 32 + index into kCategoryNames, from U+0000 on.",
              "constexpr std::uint32_t kCategoryRuns[]",
              [str(length * 32 + CATEGORIES.index(name)) for length, name in runs])
    ] + [
        array(comment + " First and last of each range.", f"constexpr char32_t {name}[][2]",
              [f"{{{first:#x},{last:#x}}}" for first, last in ranges(members)])
        for name, (comment, members) in sets.items()
    ])

    decompositions, previous = [], 0
    for c, first, second, composes in compositions():
        decompositions += [str(2 * (c - previous) + composes), str(first), str(second)]
        previous = c
    class_runs: list[list[int]] = []
    for c, combining_class in sorted(combining_classes().items()):
        if class_runs and sum(class_runs[-1][:2]) == c and class_runs[-1][2] == combining_class:
            class_runs[-1][1] += 1
        else:
            class_runs.append([c, 1, combining_class])
    write("unicode_compositions.inc", [
        array("Canonical decompositions: 2 * (code point - the one before) + (does the pair compose again), first, "
              "second or 0.", "constexpr std::uint32_t kDecompositions[]", decompositions),
        array("Canonical combining classes that are not 0: first code point, length of the run, class.",
              "constexpr std::uint32_t kCombiningClasses[][3]", [f"{{{a},{n},{k}}}" for a, n, k in class_runs]),
    ])


main()
