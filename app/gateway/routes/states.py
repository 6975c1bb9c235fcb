"""`GET /state-machine`: the transitions of orders and the statuses of payments as JSON, the transitions as a Mermaid diagram."""

from flask import Blueprint, Response, g, request

from app.contracts.orders import DescribeStates, TransitionView
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.http import schemas
from app.gateway.http.problem_catalogue import PUBLIC
from app.gateway.http.query import InvalidParameter, query_parameter
from app.gateway.http.responses import JSON, json_response
from app.messaging.bus import RequestClient

MERMAID = "text/vnd.mermaid"
# By the value of `format`; Mermaid comes as plain text then, which browsers show.
MEDIA_TYPES = {"json": JSON, "mermaid": "text/plain"}
FORMAT = Parameter(
    name="format",
    where="query",
    description="Overrides the Accept header; Mermaid then comes as plain text.",
    schema={"type": "string", "enum": list(MEDIA_TYPES)},
    example="json",
)
SAMPLE = """stateDiagram-v2
    [*] --> Processing: POST
    Processing --> Success: payment captured
"""


def blueprint(bus: RequestClient) -> Blueprint:
    """`/state-machine`."""
    routes = Blueprint("states", __name__)

    @routes.get("/state-machine")
    @Operation(
        "Show the transitions of orders and the statuses of payments",
        scope=None,
        responses={200: schemas.StateMachineSchema},
        media_types={MERMAID: SAMPLE, "text/plain": SAMPLE},
        problems=PUBLIC,
        parameters=(FORMAT,),
    )
    def show_state_machine() -> Response:
        media_type = _media_type()
        machine = bus.request(DescribeStates(request_id=g.request_id))
        if media_type == JSON:
            tables = {"transitions": machine.transitions, "paymentStatuses": machine.payment_statuses}
            return json_response({"ok": True, **tables}, Vary="Accept")
        return Response(
            _diagram(machine.transitions), headers={"Vary": "Accept"}, content_type=f"{media_type}; charset=utf-8"
        )

    return routes


def _media_type() -> str:
    name = query_parameter("format")
    if name is None:
        return request.accept_mimetypes.best_match([JSON, MERMAID]) or JSON
    if name not in MEDIA_TYPES:
        raise InvalidParameter(f"format is one of {', '.join(MEDIA_TYPES)}", parameter="format")
    return MEDIA_TYPES[name]


def _diagram(transitions: tuple[TransitionView, ...]) -> str:
    lines = [f"    {_node(one.source)} --> {_node(one.target)}: {one.by}" for one in transitions]
    return "\n".join(["stateDiagram-v2", *lines, ""])


def _node(state: str) -> str:
    # Mermaid allows no brackets in names, and calls the start [*].
    return "[*]" if state == "(new)" else state.strip("()")
