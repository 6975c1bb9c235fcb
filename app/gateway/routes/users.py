"""The erasure of a user's personal data, and the record of those."""

from flask import Blueprint, Response, g

from app.contracts.orders import EraseOrders, ListErasureRecords
from app.gateway.apidocs.operation import Operation
from app.gateway.http import schemas
from app.gateway.http.pages import LIMIT, page_limit
from app.gateway.http.problem_catalogue import READ_ONE
from app.gateway.http.responses import json_response
from app.gateway.security.caller import ADMIN, WRITE, caller, check_may_see
from app.messaging.bus import RequestClient

PERSON = schemas.PersonSchema()


def blueprint(bus: RequestClient) -> Blueprint:
    """The routes under /users, and /operations/erasures."""
    routes = Blueprint("users", __name__)

    @routes.delete("/users/<user_id>/personal-data")
    @Operation(
        "Erase a user's personal data",
        description="The user's own, or with the scope `orders:admin` anybody's. All orders of the user get a pseudonym in place of the "
        "user; amounts, states and timelines stay. Refused while the money of one of them moves. It cannot be undone.",
        scope=WRITE,
        responses={202: schemas.ErasureAcceptedSchema},
        problems=(*READ_ONE, "orders_in_progress", "invalid_members"),
    )
    def erase_personal_data(user_id: str) -> Response:
        PERSON.load({"userId": user_id})
        check_may_see(user_id)
        request = EraseOrders(request_id=g.request_id, user_id=user_id, requested_by=caller().user_id)
        return json_response({"ok": True, "erasure": bus.request(request)}, 202)

    @routes.get("/operations/erasures")
    @Operation(
        "List the erasures of personal data",
        description="The newest ones first. None has the id of the user whose data was erased.",
        scope=ADMIN,
        responses={200: schemas.ErasureListSchema},
        problems=("unavailable",),
        parameters=(LIMIT,),
    )
    def list_erasures() -> Response:
        found = bus.request(ListErasureRecords(request_id=g.request_id, limit=page_limit()))
        return json_response({"ok": True, "erasures": found.erasures})

    return routes
