"""The OpenAPI document, made from the routes and their schemas, and the page that shows it."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, Response, current_app, send_from_directory
from marshmallow import Schema, fields
from swagger_ui_bundle import swagger_ui_path
from werkzeug.routing import Rule

from app import __version__ as app_version
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.http.problem_catalogue import FACTS, MEANINGS
from app.gateway.http.problems import PROBLEMS
from app.gateway.http.schemas import Amount, ProblemSchema
from app.gateway.security.caller import open_to

# What any operation may be answered with, by the server that reads the request.
ANYWHERE = ("bad_request", "address_too_long", "headers_too_large")
# What any operation that asks for a scope may be answered with.
PROTECTED = (
    *("invalid_credentials", "unauthenticated", "invalid_token", "insufficient_scope", "rate_limited"),
    "misdirected_request",
)
# What any operation with a body may be answered with.
WITH_BODY = ("request_timeout", "cross_site_request")
PATH_EXAMPLES = {"orderId": "6920c1b05be0d3a1f2c4e687", "userId": "user-7", "code": "illegal_transition"}
HEADERS = {
    "ETag": ("The order's version.", '"6920c1b05be0d3a1f2c4e687-2"'),
    "Location": ("Where the order is.", "/orders/one/6920c1b05be0d3a1f2c4e687"),
    "Link": ("The next page, where there is one.", '</orders/user-7?cursor=WyIy>; rel="next"'),
    "Idempotent-Replayed": ("`true` where an earlier request of this key had the effect.", "true"),
    "Preference-Applied": ("The preference that was met.", "wait=10"),
    "Retry-After": ("In how many seconds to try again.", "1"),
    "WWW-Authenticate": ("How to say who calls.", 'Bearer realm="orderflow"'),
    "X-Request-Id": ("The request's name in the log: the client's own where it sent one.", "shop:7"),
}
HEADERS_OF_STATUS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    412: ("ETag",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
TAGS = {
    "orders": "Orders: place, look at, move on, give money back.",
    "state-machine": "The steps that orders may take.",
    "problems": "What can go wrong, and what to do then.",
    "healthz": "Whether the process lives.",
    "readyz": "Whether the process can serve.",
}


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of every documented route of `app`."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Orderflow",
        version=app_version,
        openapi_version="3.0.3",
        plugins=[plugin],
        info={"description": "Orders and their payments: none lost, none stuck, none charged twice."},
        servers=[{"url": "/", "description": "The server that told this."}],
        security=[{"bearer": []}] if app.config.get("IDENTITY") else [{}, {"bearer": []}],
        tags=[{"name": name, "description": description} for name, description in TAGS.items()],
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
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
    @open_to(None)
    def api_json() -> Response:
        return Response(text(current_app._get_current_object()), content_type="application/json")  # type: ignore[attr-defined]

    # Browsers that once used a server which moved /api to /api/ may remember that for good: both are the page.
    @routes.get("/api")
    @routes.get("/api/")
    @open_to(None)
    def api() -> Response:
        page = Response(PAGE, content_type="text/html; charset=utf-8")
        page.headers["Content-Security-Policy"] = PAGE_POLICY
        return page

    @routes.get("/api/assets/<name>")
    @open_to(None)
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


def _described(operation: Operation, rule: Rule) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": rule.endpoint.rpartition(".")[2],
        "tags": [rule.rule.split("/")[1]],
        "parameters": [
            *(_path_parameter(_camel(name)) for name in rule.arguments),
            *(_parameter(parameter) for parameter in operation.parameters),
        ],
        "responses": {
            **{str(status): _answer(operation, status, schema) for status, schema in operation.answers.items()},
            **_problems(_possible(operation)),
        },
    }
    if operation.scope:
        # OpenAPI 3.0 has no place for the scopes of a bearer token.
        needed = f"Where callers are asked who they are: needs the scope `{operation.scope}`."
        described["description"] = f"{needed} {operation.notes}".strip()
        described["x-scope"] = operation.scope
    else:
        described["security"] = []
    if operation.body:
        described["requestBody"] = {"required": True, "content": _json(operation.body)}
    return described


def _possible(operation: Operation) -> tuple[str, ...]:
    with_body = WITH_BODY if operation.body else ()
    return (*ANYWHERE, *with_body, *(PROTECTED if operation.scope else ()), *operation.problems)


def _answer(operation: Operation, status: int, schema: type[Schema] | None) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": (schema.__doc__ or "").strip() if schema else "Nothing new.",
        "headers": _headers(operation.sends if status < 400 else ()),
    }
    if schema:
        others = {kind: {"schema": {"type": "string"}, "example": example} for kind, example in operation.also.items()}
        answer["content"] = {**_json(schema), **others}
    return answer


def _problems(codes: Sequence[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    return {str(status): _problem(status, named) for status, named in sorted(by_status.items())}


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    examples = {code: {"summary": PROBLEMS[code][1], "value": _example_of_problem(code)} for code in codes}
    return {
        "description": " or ".join(codes),
        "headers": _headers(HEADERS_OF_STATUS.get(status, ())),
        "content": {"application/problem+json": {"schema": ProblemSchema, "examples": examples}},
    }


def _example_of_problem(code: str) -> dict[str, Any]:
    status, title = PROBLEMS[code]
    return {
        "ok": False,
        "type": f"/problems/{code}",
        "title": title,
        "status": status,
        "detail": MEANINGS[code][0],
        "code": code,
        "requestId": "b3a1d6a0a5f04be5a7b9d6a3c0a6f7d2",
        **FACTS.get(code, {}),
    }


def _json(schema: type[Schema]) -> dict[str, Any]:
    return {"application/json": {"schema": schema, "example": example_of(schema())}}


def example_of(schema: Schema) -> dict[str, Any]:
    """An example of what a schema describes, made of those of its fields; a field without one is left out."""
    examples = {field.data_key or name: _example_of_field(field) for name, field in schema.fields.items()}
    return {name: example for name, example in examples.items() if example is not ...}


def _example_of_field(field: fields.Field[Any]) -> Any:
    if "example" in field.metadata:
        return field.metadata["example"]
    if isinstance(field, fields.Nested):
        return example_of(field.schema)
    if isinstance(field, fields.List):
        return [_example_of_field(field.inner)]
    return ...


def _headers(names: Sequence[str]) -> dict[str, Any]:
    return {
        name: {"description": description, "schema": {"type": "string"}, "example": example}
        for name, (description, example) in HEADERS.items()
        if name in ("X-Request-Id", *names)
    }


def _path_parameter(name: str) -> dict[str, Any]:
    return {
        "in": "path",
        "name": name,
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        "example": PATH_EXAMPLES[name],
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "in": parameter.where,
        "name": parameter.name,
        "description": parameter.description,
        "required": parameter.required,
        # Tools that draw values from a schema, and cannot from a pattern of quotes, take the example that stands in it.
        "schema": {**parameter.schema, "example": parameter.example},
        "example": parameter.example,
    }


def _template(rule: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: f"{{{_camel(found[1])}}}", rule)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _method(methods: set[str] | None) -> str:
    return next(iter((methods or set()) - {"HEAD", "OPTIONS"})).lower()
