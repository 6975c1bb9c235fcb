"""The OpenAPI document, made from the descriptions of the routes, and the page that shows it."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, Response, current_app, send_from_directory
from marshmallow import Schema
from swagger_ui_bundle import swagger_ui_path
from werkzeug.routing import Rule

from app import __version__ as app_version
from app.gateway.apidocs.examples import schema_example
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.apidocs.webhook_items import webhook_items
from app.gateway.http.problem_catalogue import ANY_REQUEST, CHANGING, PROBLEMS, WITH_BODY, WITH_SCOPE
from app.gateway.http.problems import PROBLEM_JSON
from app.gateway.http.query import InvalidParameter, query_parameter
from app.gateway.http.responses import JSON, encode_json
from app.gateway.http.schemas import AmountField, ProblemSchema
from app.gateway.security.caller import requires_scope

PATH_EXAMPLES = {
    "orderId": "6920c1b05be0d3a1f2c4e687",
    "refundId": "9f2c7a51c60be2d4a3f08b17",
    "userId": "user-7",
    "code": "illegal_transition",
    "provider": "stripe",
    "endpointId": "we_6920c1b05be0d3a1f2c4e687",
    "deliveryId": "5f0c1c6f7f0b4f6c9f8f2a1d3c4b5a69.we_6920c1b05be0d3a1f2c4e687",
}
# OpenAPI 3.0 has no webhooks; the page /api and some other programs read no later version.
VERSIONS = {"3.1": "3.1.0", "3.0": "3.0.3"}
LATEST = "3.1"
HEADERS = {
    "ETag": ("The order's version.", '"6920c1b05be0d3a1f2c4e687-2"'),
    "Location": (
        "The address of what was made: an order, a refund, an endpoint or a delivery.",
        "/orders/one/6920c1b05be0d3a1f2c4e687",
    ),
    "Link": ("The next page, if there is one.", '</orders/user-7?cursor=WyIy>; rel="next"'),
    "Idempotent-Replayed": ("`true` if an earlier request with this key had the effect.", "true"),
    "Content-Disposition": ("A name for the file.", 'attachment; filename="orders.csv"'),
    "Preference-Applied": ("The preference that was applied.", "wait=10"),
    "Retry-After": ("Seconds after which to try again.", "1"),
    "WWW-Authenticate": ("How to authenticate.", 'Bearer realm="orderflow"'),
    "X-Request-Id": ("The request's id in the log: the client's own if it sent one.", "shop:7"),
}
NOT_MODIFIED = 304
HEADERS_BY_STATUS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    412: ("ETag",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
TAGS = {
    "orders": "Orders: place, read, change, capture, refund.",
    "operations": "For operators: parked payments and dead letters.",
    "users": "The personal data of users.",
    "webhooks": "Webhooks: endpoints that are told what becomes of orders, and what was delivered to them.",
    "event-types": "The types of events that webhooks tell.",
    "state-machine": "The transitions between the states of an order.",
    "problems": "Kinds of problems, and what to do about them.",
    "healthz": "Whether the process is alive.",
    "readyz": "Whether the process is ready to serve.",
}


def document(app: Flask, version: str = LATEST) -> dict[str, Any]:
    """The OpenAPI document of all described routes of `app`, in one of VERSIONS; the latest has the webhooks as well."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Orderflow",
        version=app_version,
        openapi_version=VERSIONS[version],
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
    if version == LATEST and "webhooks" in app.blueprints:
        spec.options["webhooks"] = webhook_items(plugin.resolver.resolve_schema_dict)  # type: ignore[union-attr]
    return spec.to_dict()


def blueprint() -> Blueprint:
    """`/api-json`, the document, and `/api`, a page to read and try it, with assets that this server has itself."""
    routes = Blueprint("openapi", __name__)

    @cache
    def encoded_document(app: Flask, version: str) -> bytes:
        return encode_json(document(app, version))

    @routes.get("/api-json")
    @requires_scope(None)
    def api_json() -> Response:
        version = query_parameter("openapi")
        version = LATEST if version is None else version
        if version not in VERSIONS:
            raise InvalidParameter(f"openapi is one of {', '.join(VERSIONS)}", parameter="openapi")
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        return Response(encoded_document(app, version), content_type=JSON)

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
  url: "/api-json?openapi=3.0",
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
            **_problem_responses(_problem_codes(operation, rule)),
        },
    }
    if operation.scope:
        # OpenAPI has no place for the scopes of a bearer token.
        needed = f"With authentication on, it needs the scope `{operation.scope}`."
        members["description"] = f"{needed} {operation.description}".strip()
        members["x-scope"] = operation.scope
    else:
        members["security"] = []
    if operation.body:
        members["requestBody"] = {"required": True, "content": _body_content(operation.body)}
    return members


def _problem_codes(operation: Operation, rule: Rule) -> tuple[str, ...]:
    with_body = WITH_BODY if operation.body else ()
    with_scope = WITH_SCOPE if operation.scope else ()
    changing = CHANGING if operation.scope and _method(rule.methods) != "get" else ()
    with_query = () if operation.any_query else ("invalid_parameter",)
    return (*ANY_REQUEST, *with_query, *with_body, *with_scope, *changing, *operation.problems)


def _response(operation: Operation, status: int, schema: type[Schema] | None) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": "Not modified." if status == NOT_MODIFIED else _described(operation, schema),
        "headers": _headers(operation.headers if status < 400 else ()),
    }
    if schema or (operation.media_types and status != NOT_MODIFIED):
        texts = {
            media_type: {"schema": {"type": "string"}, "example": example}
            for media_type, example in operation.media_types.items()
        }
        response["content"] = {**(_json_content(schema) if schema else {}), **texts}
    return response


def _described(operation: Operation, schema: type[Schema] | None) -> str:
    return (schema.__doc__ or "").strip() if schema else f"{operation.summary}."


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


def _body_content(body: type[Schema] | tuple[type[Schema], ...]) -> dict[str, Any]:
    if not isinstance(body, tuple):
        return _json_content(body)
    examples = {schema.__name__.removesuffix("Schema"): {"value": schema_example(schema())} for schema in body}
    return {JSON: {"schema": {"oneOf": list(body)}, "examples": examples}}


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
        **({"style": "deepObject", "explode": True} if parameter.keyed else {}),
    }


def _template(rule: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda match: f"{{{_camel(match[1])}}}", rule)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _method(methods: set[str] | None) -> str:
    return next(iter((methods or set()) - {"HEAD", "OPTIONS"})).lower()
