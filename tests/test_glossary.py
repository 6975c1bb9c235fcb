"""The glossary is the naming authority: every class of app/ ends in one of its terms, and no two classes have one name."""

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
ROW = re.compile(r"^\| *(?P<term>[^|]+?) *\| *(?P<meaning>[^|]+?) *\|$", re.MULTILINE)
# Nouns of any program, which need no explanation.
WORDS = """
address amount bar buffer client clock code codec collector connection counter currency database
decision diagnostics document entry error fault field finding flusher follower gauge kind
filter limit limiter list logger message mongod money monitor notifier operation origin page parameter
patch plan policy publisher queries queue registry report repository response result rule
runtime scheduler schema sender server service settings snapshot socket state store telemetry
text thread topology tracer tracker update verifier view worker writer
"""
PLAIN_ENGLISH = {*WORDS.split()}
# marshmallow reads the options of a schema from a class of this name.
OPTIONS = "Meta"


class Class(NamedTuple):
    """A class as the code declares it."""

    name: str
    bases: tuple[str, ...]
    file: str


def classes(root: Path = ROOT) -> list[Class]:
    """Every class of app/, those inside of functions and other classes included."""
    return [
        Class(node.name, tuple(map(name_of, node.bases)), file.relative_to(root).as_posix())
        for file in sorted((root / "app").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and node.name != OPTIONS
    ]


def name_of(base: ast.expr) -> str:
    """The last name of a base class: `Reply` of `base.Reply` and of `Request[Reply]`."""
    while isinstance(base, ast.Subscript):
        base = base.value
    return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def ancestors(name: str, found: list[Class]) -> Iterator[str]:
    """The names of all base classes, as far as app/ declares them."""
    for each in found:
        if each.name == name:
            for base in each.bases:
                yield base
                yield from ancestors(base, found)


def states_an_occurrence(one: Class, found: list[Class]) -> bool:
    """Whether it is an event, a reply or an error: these say what happened (`PaymentCaptured`, `NotFound`)."""
    above = {*ancestors(one.name, found), *one.bases}
    return bool(above & {"Event", "Reply"}) or any(is_error(name) for name in above)


def is_error(name: str) -> bool:
    builtin = getattr(builtins, name, None)
    return name.endswith("Exception") or (isinstance(builtin, type) and issubclass(builtin, BaseException))


def head_noun(name: str) -> str:
    """The last word of a name in CamelCase, in lower case: `bus` of `RabbitMqBus`."""
    return re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)[-1].lower()


def terms(glossary: str = GLOSSARY) -> set[str]:
    """The head nouns of the glossary: the last word of each term."""
    cells = [row["term"] for row in ROW.finditer(glossary) if set(row["term"]) != {"-"} and row["term"] != "term"]
    return {term.split()[-1].strip("`").lower() for cell in cells for term in re.sub(r"\(.*?\)", "", cell).split(",")}


def unknown(found: list[Class], words: set[str]) -> dict[str, str]:
    """The classes whose head noun is no known word, in singular or plural, with their files."""
    return {
        one.name: one.file
        for one in found
        if not states_an_occurrence(one, found) and not {head_noun(one.name), singular(head_noun(one.name))} & words
    }


def singular(noun: str) -> str:
    if noun.endswith("ies"):
        return f"{noun[:-3]}y"
    return noun.removesuffix("es") if noun.endswith("sses") else noun.removesuffix("s")


def repeated(found: list[Class]) -> dict[str, list[str]]:
    """The names that several classes have, with their files."""
    files = defaultdict(list)
    for one in found:
        files[one.name].append(one.file)
    return {name: each for name, each in files.items() if len(each) > 1}


def test_every_class_ends_in_a_term_of_the_glossary_or_in_plain_english():
    assert unknown(classes(), terms() | PLAIN_ENGLISH) == {}


def test_no_two_classes_have_one_name():
    assert repeated(classes()) == {}


def test_the_codes_own_words_in_the_glossary_are_in_the_code():
    words = {word for row in ROW.finditer(GLOSSARY) for word in re.findall(r"`([A-Za-z_]+)`", row[0])}
    code = "\n".join(file.read_text() for folder in ("app", "tools") for file in (ROOT / folder).rglob("*.py"))
    assert not {word for word in words if not re.search(rf"\b{word}\b", code)}


def test_every_term_has_one_line_with_a_short_meaning():
    rows = [row for row in ROW.finditer(GLOSSARY) if row["term"] != "term" and set(row["term"]) != {"-"}]
    assert len(rows) > 50
    assert len({row["term"] for row in rows}) == len(rows)
    assert {row["term"]: row["meaning"] for row in rows if len(row["meaning"].split()) > 30} == {}


@pytest.mark.parametrize("name", ["Held", "Wish", "OrderLook"])
def test_a_private_word_is_found(name):
    found = [Class(name, ("Struct",), "app/orders/order.py")]
    assert unknown(found, terms() | PLAIN_ENGLISH) == {name: "app/orders/order.py"}


@pytest.mark.parametrize(
    ("name", "bases"),
    [("OrderLapsed", ("Event",)), ("NotThere", ("RuntimeError",)), ("OrderPayments", ()), ("RabbitMqBus", ("Bus",))],
)
def test_events_errors_plurals_and_terms_are_accepted(name, bases):
    assert unknown([Class(name, bases, "")], terms() | PLAIN_ENGLISH) == {}


def test_a_second_class_of_a_name_is_found():
    assert repeated([Class("Plan", (), "app/a.py"), Class("Plan", (), "app/b.py")]) == {
        "Plan": ["app/a.py", "app/b.py"]
    }
