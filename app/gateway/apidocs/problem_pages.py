"""`GET /problems/{code}`: what each kind of problem means, and what to do about it."""

from html import escape

from flask import Blueprint, Response, abort, request

from app.gateway.apidocs.operation import documented
from app.gateway.http import schemas
from app.gateway.http.problem_catalogue import MEANINGS
from app.gateway.http.problems import PROBLEMS
from app.gateway.http.responses import json_answer

HTML = "text/html"


def blueprint() -> Blueprint:
    """`/problems/<code>`, as a page or as JSON."""
    routes = Blueprint("problems", __name__)

    @routes.get("/problems/<code>")
    @documented(
        "Show what a kind of problem means",
        scope=None,
        answers={200: schemas.ProblemKindSchema},
        also={HTML: "<!doctype html>…"},
        problems=("not_found", "rate_limited", "misdirected_request"),
    )
    def show_problem(code: str) -> Response:
        if code not in PROBLEMS:
            abort(404)
        if request.accept_mimetypes.best_match([HTML, "application/json"]) == "application/json":
            return json_answer({"ok": True, **_members(code)}, 200, Vary="Accept")
        return Response(_page(code), headers={"Vary": "Accept"}, content_type=f"{HTML}; charset=utf-8")

    return routes


def _members(code: str) -> dict[str, object]:
    status, title = PROBLEMS[code]
    means, remedy = MEANINGS[code]
    return {
        "type": f"/problems/{code}",
        "code": code,
        "title": title,
        "status": status,
        "means": means,
        "remedy": remedy,
    }


def _page(code: str) -> str:
    status, title = PROBLEMS[code]
    means, remedy = MEANINGS[code]
    return PAGE.format(*(escape(str(part)) for part in (title, status, code, means, remedy)))


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{0}</title>
</head>
<body>
<main>
<h1>{0}</h1>
<p>Status {1}, code <code>{2}</code></p>
<h2>What it means</h2>
<p>{3}</p>
<h2>What to do</h2>
<p>{4}</p>
<p><a href="/api">The whole interface</a></p>
</main>
</body>
</html>
"""
