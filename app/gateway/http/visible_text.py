"""Characters in text that are not seen, or that change how the text around them is read."""

from unicodedata import category

# Zero-width joiner and non-joiner, which Indic scripts, Persian and emoji are written with, and the soft hyphen.
JOINERS = frozenset("\u200c\u200d\u00ad")
# Letters and marks that show nothing, though their category does not say so.
BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
VARIATIONS = frozenset(chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))


def hides(text: str, *, joiners: bool = False) -> bool:
    """Whether something in `text` is not seen: zero-width, bidirectional, filling; `joiners` are let pass where asked for.

    A variation selector, which says how a symbol is drawn, is let pass behind one.
    """
    if text.isascii():
        return False
    return any(_hidden(before, char, joiners) for before, char in zip(f" {text}", text, strict=False))


def _hidden(before: str, char: str, joiners: bool) -> bool:
    if char in VARIATIONS:
        return not joiners and category(before) != "So"
    return (category(char) == "Cf" or char in BLANKS) and not (joiners and char in JOINERS)
