"""Control characters, and characters that are invisible or change how the text around them is read."""

import re
from unicodedata import category

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Zero-width joiner and non-joiner, which Indic scripts, Persian and emoji need, and the soft hyphen.
JOINERS = frozenset("\u200c\u200d\u00ad")
# Letters and marks that are invisible although their Unicode category does not say so.
BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
VARIATION_SELECTORS = frozenset(chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))


def has_invisible(text: str, *, joiners: bool = False) -> bool:
    """Whether `text` has zero-width, bidirectional or blank characters. `joiners` allows JOINERS and all variation selectors.

    A variation selector, which selects how a symbol is drawn, is always allowed after a symbol.
    """
    if text.isascii():
        return False
    return any(_is_invisible(before, char, joiners) for before, char in zip(f" {text}", text, strict=False))


def _is_invisible(before: str, char: str, joiners: bool) -> bool:
    if char in VARIATION_SELECTORS:
        return not joiners and category(before) != "So"
    return (category(char) == "Cf" or char in BLANKS) and not (joiners and char in JOINERS)
