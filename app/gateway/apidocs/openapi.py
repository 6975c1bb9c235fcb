"""The OpenAPI document, made from the descriptions of the routes, and the page that shows it."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, Response, current_app, send_from_directory
from marshmallow import Schema, fields
from swagger_ui_bundle import swagger_ui_path
from werkzeug.routing import Rule

from app import __version__ as app_version
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.http.problem_catalogue import ANY_REQUEST, PROBLEMS, WITH_BODY, WITH_SCOPE
from app.gateway.http.problems import PROBLEM_JSON
from app.gateway.http.responses import JSON, encode_json
from app.gateway.http.schemas import AmountField, ProblemSchema
from app.gateway.security.caller import requires_scope

PATH_EXAMPLES = {
    "orderId": "6920c1b05be0d3a1f2c4e687",
    "userId": "user-7",
    "code": "illegal_transition",
    "provider": "stripe",
}
HEADERS = {
    "ETag": ("The order's version.", '"6920c1b05be0d3a1f2c4e687-2"'),
    "Location": ("The order's address.", "/orders/one/6920c1b05be0d3a1f2c4e687"),
    "Link": ("The next page, if there is one.", '</orders/user-7?cursor=WyIy>; rel="next"'),
    "Idempotent-Replayed": ("`true` if an earlier request with this key had the effect.", "true"),
    "Preference-Applied": ("The preference that was applied.", "wait=10"),
    "Retry-After": ("Seconds after which to try again.", "1"),
    "WWW-Authenticate": ("How to authenticate.", 'Bearer realm="orderflow"'),
    "X-Request-Id": ("The request's id in the log: the client's own if it sent one.", "shop:7"),
}
HEADERS_BY_STATUS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    412: ("ETag",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
TAGS = {
    "orders": "Orders: place, read, change, capture, refund.",
    "state-machine": "The transitions between the states of an order.",
    "problems": "Kinds of problems, and what to do about them.",
    "healthz": "Whether the process is alive.",
    "readyz": "Whether the process is ready to serve.",
}


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of all described routes of `app`."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Orderflow",
        version=app_version,
        openapi_version="3.0.3",
        plugins=[plugin],
        info={"description": "Orders and their payments: none lost, none stuck, none charged twice."},
        servers=[{"url": "/", "description": "This server."}],
        security=[{"bearer": []}] if app.config.get("IDENTITY") else [{}, {"bearer": []}],
        tags=[{"name": name, "description": description} for name, description in TAGS.items()],
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    plugin.converter.add_attribute_function(_amount_schema)  # type: ignore[union-attr]
    for rule in app.url_map.iter_rules():
        operation = getattr(app.view_functions[rule.endpoint], "operation", None)
        if operation:
            spec.path(_template(rule.rule), operations={_method(rule.methods): _operation_object(operation, rule)})
    return spec.to_dict()


def blueprint() -> Blueprint:
    """`/api-json`, the document, and `/api`, a page to read and try it, with assets that this server has itself."""
    routes = Blueprint("openapi", __name__)

    @cache
    def encoded_document(app: Flask) -> bytes:
        return encode_json(document(app))

    @routes.get("/api-json")
    @requires_scope(None)
    def api_json() -> Response:
        return Response(encoded_document(current_app._get_current_object()), content_type=JSON)  # type: ignore[attr-defined]

    # Browsers may have cached a permanent redirect from /api to /api/ that another server sent: both serve the page.
    @routes.get("/api")
    @routes.get("/api/")
    @requires_scope(None)
    def api() -> Response:
        page = Response(PAGE, content_type="text/html; charset=utf-8")
        page.headers["Content-Security-Policy"] = PAGE_POLICY
        return page

    @routes.get("/api/assets/<name>")
    @requires_scope(None)
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


def _amount_schema(_converter: Any, field: Any, **_: Any) -> dict[str, Any]:
    if not isinstance(field, AmountField):
        return {}
    money = {
        "type": "object",
        "required": ["value", "currency"],
        "properties": {"value": {"type": "integer", "minimum": 1}, "currency": {"type": "string"}},
    }
    return {"oneOf": [{"type": "string", "maxLength": 64}, money]}


def _operation_object(operation: Operation, rule: Rule) -> dict[str, Any]:
    members: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": rule.endpoint.rpartition(".")[2],
        "tags": [rule.rule.split("/")[1]],
        "parameters": [
            *(_path_parameter(_camel(name)) for name in rule.arguments),
            *(_parameter(parameter) for parameter in operation.parameters),
        ],
        "responses": {
            **{str(status): _response(operation, status, schema) for status, schema in operation.responses.items()},
            **_problem_responses(_problem_codes(operation)),
        },
    }
    if operation.scope:
        # OpenAPI 3.0 has no place for the scopes of a bearer token.
        needed = f"With authentication on, it needs the scope `{operation.scope}`."
        members["description"] = f"{needed} {operation.description}".strip()
        members["x-scope"] = operation.scope
    else:
        members["security"] = []
    if operation.body:
        members["requestBody"] = {"required": True, "content": _json_content(operation.body)}
    return members


def _problem_codes(operation: Operation) -> tuple[str, ...]:
    with_body = WITH_BODY if operation.body else ()
    with_scope = WITH_SCOPE if operation.scope else ()
    return (*ANY_REQUEST, *with_body, *with_scope, *operation.problems)


def _response(operation: Operation, status: int, schema: type[Schema] | None) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": (schema.__doc__ or "").strip() if schema else "Not modified.",
        "headers": _headers(operation.headers if status < 400 else ()),
    }
    if schema:
        texts = {
            media_type: {"schema": {"type": "string"}, "example": example}
            for media_type, example in operation.media_types.items()
        }
        response["content"] = {**_json_content(schema), **texts}
    return response


def _problem_responses(codes: Sequence[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    return {str(status): _problem_response(status, codes) for status, codes in sorted(by_status.items())}


def _problem_response(status: int, codes: list[str]) -> dict[str, Any]:
    examples = {code: {"summary": PROBLEMS[code].title, "value": _problem_example(code)} for code in codes}
    return {
        "description": " or ".join(codes),
        "headers": _headers(HEADERS_BY_STATUS.get(status, ())),
        "content": {PROBLEM_JSON: {"schema": ProblemSchema, "examples": examples}},
    }


def _problem_example(code: str) -> dict[str, Any]:
    kind = PROBLEMS[code]
    return {
        "ok": False,
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.meaning,
        "code": code,
        "requestId": "b3a1d6a0a5f04be5a7b9d6a3c0a6f7d2",
        **kind.facts,
    }


def _json_content(schema: type[Schema]) -> dict[str, Any]:
    return {JSON: {"schema": schema, "example": schema_example(schema())}}


def schema_example(schema: Schema) -> dict[str, Any]:
    """An example of a schema, made of the examples of its fields; a field without one is left out."""
    examples = {field.data_key or name: _field_example(field) for name, field in schema.fields.items()}
    return {name: example for name, example in examples.items() if example is not ...}


def _field_example(field: fields.Field[Any]) -> Any:
    if "example" in field.metadata:
        return field.metadata["example"]
    if isinstance(field, fields.Nested):
        return schema_example(field.schema)
    if isinstance(field, fields.List):
        return [_field_example(field.inner)]
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
        # Tools that generate values from a schema use its example if they cannot generate from its pattern.
        "schema": {**parameter.schema, "example": parameter.example},
        "example": parameter.example,
    }


def _template(rule: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda match: f"{{{_camel(match[1])}}}", rule)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _method(methods: set[str] | None) -> str:
    return next(iter((methods or set()) - {"HEAD", "OPTIONS"})).lower()
