"""The OpenAPI document, made from the routes and their schemas, and the page that shows it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, Response, current_app, send_from_directory
from marshmallow import Schema
from swagger_ui_bundle import swagger_ui_path

from app import __version__ as app_version
from app.gateway.errors import PROBLEMS
from app.gateway.schemas import Amount, ProblemSchema

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a route does, takes and answers."""

    summary: str
    body: type[Schema] | None
    answers: Mapping[int, type[Schema]]
    problems: Sequence[str]
    headers: Mapping[str, str]


def documented(
    summary: str,
    *,
    body: type[Schema] | None = None,
    answers: Mapping[int, type[Schema]],
    problems: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
) -> Callable[[View], View]:
    """Say of a view what it does, takes and answers; the OpenAPI document is made from this and nothing else."""
    operation = Operation(summary=summary, body=body, answers=answers, problems=problems, headers=headers or {})

    def mark(view: View) -> View:
        view.operation = operation  # type: ignore[attr-defined]
        return view

    return mark


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of every documented route of `app`."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Orderflow",
        version=app_version,
        openapi_version="3.0.3",
        plugins=[plugin],
        info={"description": "Orders and their payments: none lost, none stuck, none charged twice."},
    )
    plugin.converter.add_attribute_function(_amount)  # type: ignore[union-attr]
    for rule in app.url_map.iter_rules():
        operation = getattr(app.view_functions[rule.endpoint], "operation", None)
        if operation:
            spec.path(_template(rule.rule), operations={_method(rule.methods): _described(operation, rule)})
    return spec.to_dict()


def blueprint() -> Blueprint:
    """`/api-json`, the document, and `/api`, a page to read and try it; all assets come from here."""
    routes = Blueprint("openapi", __name__)

    @cache
    def text(app: Flask) -> bytes:
        return orjson.dumps(document(app))

    @routes.get("/api-json")
    def api_json() -> Response:
        return Response(text(current_app._get_current_object()), content_type="application/json")  # type: ignore[attr-defined]

    @routes.get("/api")
    def api() -> Response:
        page = Response(PAGE, content_type="text/html; charset=utf-8")
        page.headers["Content-Security-Policy"] = PAGE_POLICY
        return page

    @routes.get("/api/assets/<path:name>")
    def assets(name: str) -> Response:
        if name == "start.js":
            return Response(START, content_type="text/javascript; charset=utf-8")
        return send_from_directory(swagger_ui_path, name, max_age=86400)

    return routes


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Orderflow API</title>
<link rel="stylesheet" href="/api/assets/swagger-ui.css">
<link rel="icon" href="/api/assets/favicon-32x32.png">
</head>
<body>
<main id="swagger-ui"></main>
<script src="/api/assets/swagger-ui-bundle.js"></script>
<script src="/api/assets/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "/api-json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)


def _amount(_converter: Any, field: Any, **_: Any) -> dict[str, Any]:
    if not isinstance(field, Amount):
        return {}
    money = {
        "type": "object",
        "required": ["value", "currency"],
        "properties": {"value": {"type": "integer", "minimum": 1}, "currency": {"type": "string"}},
    }
    return {"oneOf": [{"type": "string", "maxLength": 64}, money]}


def _described(operation: Operation, rule: Any) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": rule.endpoint.rpartition(".")[2],
        "tags": [rule.endpoint.partition(".")[0]],
        "parameters": [
            {
                "in": "path",
                "name": _camel(name),
                "required": True,
                "schema": {"type": "string", "maxLength": 128},
            }
            for name in rule.arguments
        ]
        + [
            {"in": "header", "name": name, "description": text, "schema": {"type": "string", "maxLength": 255}}
            for name, text in operation.headers.items()
        ],
        "responses": {
            **{str(status): _content("application/json", schema) for status, schema in operation.answers.items()},
            **_problems(operation.problems),
        },
    }
    if operation.body:
        described["requestBody"] = {"required": True, **_content("application/json", operation.body, "")}
    return described


def _problems(codes: Sequence[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    return {
        str(status): _content("application/problem+json", ProblemSchema, " or ".join(names))
        for status, names in sorted(by_status.items())
    }


def _content(kind: str, schema: type[Schema], description: str | None = None) -> dict[str, Any]:
    content: dict[str, Any] = {"content": {kind: {"schema": schema}}}
    if description != "":
        content["description"] = description or (schema.__doc__ or "").strip()
    return content


def _template(rule: str) -> str:
    for name in ("order_id", "user_id"):
        rule = rule.replace(f"<{name}>", f"{{{_camel(name)}}}")
    return rule


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _method(methods: set[str] | None) -> str:
    return next(iter((methods or set()) - {"HEAD", "OPTIONS"})).lower()
