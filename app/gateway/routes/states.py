"""`GET /state-machine`: the steps that orders may take, as JSON or as a Mermaid diagram."""

from flask import Blueprint, Response, g, request

from app.contracts.orders import DescribeStates, StateRule
from app.gateway.apidocs.operation import Parameter, documented
from app.gateway.http import schemas
from app.gateway.http.query import InvalidParameter, parameter
from app.gateway.http.responses import json_answer
from app.messaging.bus import RequestClient

MERMAID = "text/vnd.mermaid"
FORMAT = Parameter(
    name="format",
    where="query",
    description="Counts more than the Accept header; Mermaid then comes as plain text.",
    schema={"type": "string", "enum": ["json", "mermaid"]},
    example="json",
)
SAMPLE = """stateDiagram-v2
    [*] --> Processing: POST
    Processing --> Success: payment captured
"""
FORMATS = ("json", "mermaid")


def blueprint(bus: RequestClient) -> Blueprint:
    """`/state-machine`, asking `bus`."""
    routes = Blueprint("states", __name__)

    @routes.get("/state-machine")
    @documented(
        "Show the steps that an order may take",
        scope=None,
        answers={200: schemas.StateMachineSchema},
        also={MERMAID: SAMPLE, "text/plain": SAMPLE},
        problems=("invalid_parameter", "rate_limited", "misdirected_request"),
        parameters=(FORMAT,),
    )
    def show_state_machine() -> Response:
        kind = _kind()
        rules = bus.request(DescribeStates(request_id=g.request_id)).rules
        if kind == "application/json":
            return json_answer({"ok": True, "transitions": [_transition(rule) for rule in rules]}, 200, Vary="Accept")
        return Response(_diagram(rules), headers={"Vary": "Accept"}, content_type=f"{kind}; charset=utf-8")

    return routes


def _kind() -> str:
    wanted = parameter("format")
    if wanted not in (None, *FORMATS):
        raise InvalidParameter(f"format is one of {', '.join(FORMATS)}", parameter="format")
    if wanted:
        return "text/plain" if wanted == "mermaid" else "application/json"
    return request.accept_mimetypes.best_match(["application/json", MERMAID]) or "application/json"


def _transition(rule: StateRule) -> dict[str, str]:
    return {"from": rule.source, "by": rule.by, "to": rule.target, "money": rule.money}


def _diagram(rules: tuple[StateRule, ...]) -> str:
    steps = [f"    {_node(rule.source)} --> {_node(rule.target)}: {rule.by}" for rule in rules]
    return "\n".join(["stateDiagram-v2", *steps, ""])


def _node(state: str) -> str:
    # Mermaid's names take no brackets; [*] is where everything begins.
    return "[*]" if state == "(new)" else state.strip("()")
