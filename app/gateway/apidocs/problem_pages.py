"""`GET /problems/{code}`: the meaning of each kind of problem, and what to do about it."""

from html import escape

from flask import Blueprint, Response, abort, request

from app.gateway.apidocs.operation import Operation
from app.gateway.http import schemas
from app.gateway.http.problem_catalogue import PROBLEMS, PUBLIC
from app.gateway.http.responses import JSON, json_response

HTML = "text/html"


def blueprint() -> Blueprint:
    """`/problems/<code>`, as a page or as JSON."""
    routes = Blueprint("problems", __name__)

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
        return Response(_page(code), headers={"Vary": "Accept"}, content_type=f"{HTML}; charset=utf-8")

    return routes


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
    return PAGE.format(*(escape(str(part)) for part in (kind.title, kind.status, code, kind.meaning, kind.remedy)))


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
<p><a href="/api">The API</a></p>
</main>
</body>
</html>
"""
