"""Every kind of problem has a page, and its type leads there; the table of states can be seen."""

import re
from pathlib import Path

import pytest

from app.gateway.http.problem_catalogue import PROBLEMS
from app.orders.order import PAYMENT_STATUSES, TRANSITIONS, Trigger

every_code = pytest.mark.parametrize("code", PROBLEMS)


@every_code
def test_a_problem_is_explained_as_a_page_and_as_json(http, code):
    kind = PROBLEMS[code]
    page = http.get(f"/problems/{code}", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert str(kind.status) in page.text
    assert not re.search(r"<script|style=|https?://|{\d}", page.text)
    told = http.get(f"/problems/{code}", headers={"Accept": "application/json"})
    assert told.json == {
        "ok": True,
        "type": f"/problems/{code}",
        "code": code,
        "title": kind.title,
        "status": kind.status,
        "meaning": kind.meaning,
        "remedy": kind.remedy,
    }
    assert (page.headers["Vary"], told.headers["Vary"]) == ("Accept", "Accept")


def test_all_kinds_of_problems_are_listed_as_each_is_told(http):
    listed = http.get("/problems").json
    assert listed.keys() == {"ok", "problems"}
    assert [kind["code"] for kind in listed["problems"]] == [*PROBLEMS]
    for kind in listed["problems"]:
        assert http.get(kind["type"], headers={"Accept": "application/json"}).json == {"ok": True, **kind}


@every_code
def test_what_a_problem_means_and_what_to_do_are_sentences(code):
    for text in (PROBLEMS[code].meaning, PROBLEMS[code].remedy):
        assert re.fullmatch(r"[A-Z].{10,}\.", text), text


def test_the_type_of_a_problem_that_is_met_leads_to_its_page(http):
    problem = http.get("/orders/one/nothing").json
    page = http.get(problem["type"])
    assert (page.status_code, problem["title"] in page.text) == (200, True)


def test_the_states_are_those_of_the_table(http):
    told = http.get("/state-machine")
    assert (told.headers["Content-Type"], told.headers["Vary"]) == ("application/json", "Accept")
    assert told.json == {
        "ok": True,
        "transitions": [
            {"from": rule.source, "by": rule.by, "to": rule.target, "money": rule.money} for rule in TRANSITIONS
        ],
        "paymentStatuses": [
            {"status": rule.status, "meaning": rule.meaning, "actions": [*rule.actions], "onCancel": rule.on_cancel}
            for rule in PAYMENT_STATUSES
        ],
    }
    assert len(told.json["transitions"]) == len(TRANSITIONS) > 10


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", "text/vnd.mermaid", "text/vnd.mermaid"),
        ("?format=mermaid", "*/*", "text/plain"),
        ("?format=mermaid", "application/json", "text/plain"),
    ],
)
def test_the_states_are_drawn(http, query, accept, kind):
    told = http.get(f"/state-machine{query}", headers={"Accept": accept})
    assert (told.status_code, told.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
    first, *steps = told.text.strip().split("\n")
    assert first == "stateDiagram-v2"
    assert len(steps) == len(TRANSITIONS)
    for line in steps:
        node = r"(\[\*\]|\w+)"
        assert re.fullmatch(rf"    {node} --> {node}: ({'|'.join(Trigger)})", line)
    assert "    Declined --> Cancelled: PUT Cancelled" in steps


@pytest.mark.parametrize("query", ["?format=json", ""])
def test_json_is_what_one_gets_otherwise(http, query):
    for accept in ("application/json", "*/*", "image/png"):
        assert http.get(f"/state-machine{query}", headers={"Accept": accept}).json["ok"] is True


@pytest.mark.parametrize("query", ["?format=svg", "?format=", "?format=json&format=mermaid"])
def test_no_other_form_is_made_up(http, refused, query):
    assert refused(http.get(f"/state-machine{query}"), 400, "invalid_parameter")["parameter"] == "format"


def test_the_documentation_has_every_status_of_a_payment():
    page = (Path(__file__).parents[3] / "docs/api.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (.+) \|(.*)\|$", page.partition("### The statuses of a payment")[2], re.MULTILINE)
    shown = [(status, meaning, action.strip()) for status, meaning, action in rows if status != "paymentStatus"]
    assert shown == [(rule.status, rule.meaning, ", ".join(rule.actions)) for rule in PAYMENT_STATUSES]
