"""`GET /problems`, all kinds of problems, and `GET /problems/{code}`: what each means, and what to do about it."""

from html import escape

from flask import Blueprint, Response, abort, request

from app.gateway.apidocs.operation import Operation
from app.gateway.http import schemas
from app.gateway.http.problem_catalogue import PROBLEMS, PUBLIC
from app.gateway.http.responses import JSON, json_response

HTML = "text/html"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint() -> Blueprint:
    """`/problems` and `/problems/<code>`, each as a page or as JSON."""
    routes = Blueprint("problems", __name__)

    @routes.get("/problems")
    @Operation(
        "List all kinds of problems",
        scope=None,
        responses={200: schemas.ProblemListSchema},
        media_types={HTML: "<!doctype html>…"},
        problems=PUBLIC,
    )
    def list_problems() -> Response:
        # A program that names no type gets JSON here.
        if request.accept_mimetypes.best_match([JSON, HTML]) == HTML:
            return _html(_list_page())
        return json_response({"ok": True, "problems": [_members(code) for code in PROBLEMS]}, Vary="Accept")

    @routes.get("/problems/<code>")
    @Operation(
        "Get the meaning of a kind of problem",
        scope=None,
        responses={200: schemas.ProblemKindSchema},
        media_types={HTML: "<!doctype html>…"},
        problems=("not_found", *PUBLIC),
    )
    def show_problem(code: str) -> Response:
        if code not in PROBLEMS:
            abort(404)
        if request.accept_mimetypes.best_match([HTML, JSON]) == JSON:
            return json_response({"ok": True, **_members(code)}, Vary="Accept")
        return _html(_page(code))

    return routes


def _html(page: str) -> Response:
    headers = {"Vary": "Accept", "Content-Security-Policy": POLICY}
    return Response(page, headers=headers, content_type=f"{HTML}; charset=utf-8")


def _members(code: str) -> dict[str, object]:
    kind = PROBLEMS[code]
    return {
        "type": f"/problems/{code}",
        "code": code,
        "title": kind.title,
        "status": kind.status,
        "meaning": kind.meaning,
        "remedy": kind.remedy,
    }


def _page(code: str) -> str:
    kind = PROBLEMS[code]
    parts = (kind.title, kind.status, code, kind.meaning, kind.remedy)
    return _framed(kind.title, PROBLEM.format(*(escape(str(part)) for part in parts)))


def _list_page() -> str:
    rows = (
        ROW.format(*(escape(str(part)) for part in (code, kind.status, kind.title))) for code, kind in PROBLEMS.items()
    )
    return _framed("Problems", LIST.format("\n".join(rows)))


def _framed(title: str, content: str) -> str:
    return PAGE.format(escape(title), content)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{0}</title>
<link rel="icon" href="/console/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/console/plain.css">
</head>
<body>
<main>
<h1>{0}</h1>
{1}
<nav aria-label="Pages"><a href="/problems">All problems</a> <a href="/api">The API</a> <a href="/">The console</a></nav>
</main>
</body>
</html>
"""
PROBLEM = """<p class="note">Status {1}, code <code>{2}</code></p>
<h2>What it means</h2>
<p>{3}</p>
<h2>What to do</h2>
<p>{4}</p>"""
LIST = """<table>
<thead><tr><th scope="col">Code</th><th scope="col">Status</th><th scope="col">What it is</th></tr></thead>
<tbody>
{0}
</tbody>
</table>"""
ROW = '<tr><td><a href="/problems/{0}"><code>{0}</code></a></td><td>{1}</td><td>{2}</td></tr>'
