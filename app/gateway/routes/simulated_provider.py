"""`/providers/simulated/actions/{token}`: the page of the simulated provider, on which a person decides about a payment."""

from collections.abc import Mapping
from html import escape

from flask import Blueprint, Response, abort, g, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from app.contracts.base import Money, NotFound, Request
from app.contracts.payments import DecideProviderAction, FindProviderAction, ProviderAction
from app.gateway.http.body import MalformedBody, read_bytes
from app.gateway.http.money import format_money
from app.gateway.security.caller import requires_scope
from app.messaging.bus import RequestClient

POLICY = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
# The forms that the two buttons send, and what is on the buttons for the customer and for the bank.
FORMS = {b"decision=approve": True, b"decision=refuse": False}
APPROVAL = {"approve": "Approve", "refuse": "Refuse"}
DISPUTE = {"approve": "The merchant wins", "refuse": "The payer wins"}
STATES = {
    "pending": "The payment waits for you.",
    "captured": "The payment is made.",
    "authorized": "The payment is authorized.",
    "declined": "The payment is declined.",
    "voided": "The payment is cancelled.",
    "open": "The payer says: this is not my charge. Who is right?",
    "won": "The dispute has ended: the merchant keeps the money.",
    "lost": "The dispute has ended: the payer has the money back.",
}


def blueprint(bus: RequestClient) -> Blueprint:
    """The page. Nobody finds it who does not know its token, so that it needs no other credential."""
    routes = Blueprint("simulated_provider", __name__)

    @routes.get("/providers/simulated/actions/<token>")
    @requires_scope(None)
    def show_action(token: str) -> Response:
        return _page(_action(bus, FindProviderAction(request_id=g.request_id, token=token)))

    @routes.post("/providers/simulated/actions/<token>")
    @requires_scope(None)
    def decide_action(token: str) -> AnyResponse:
        _action(bus, DecideProviderAction(request_id=g.request_id, token=token, approve=_approves(read_bytes(request))))
        return redirect(request.path, 303)

    return routes


def _action(bus: RequestClient, message: Request[ProviderAction]) -> ProviderAction:
    try:
        return bus.request(message)
    except NotFound:
        abort(404)


def _approves(form: bytes) -> bool:
    if form not in FORMS:
        raise MalformedBody("the form has no decision: approve or refuse")
    return FORMS[form]


def _page(action: ProviderAction) -> Response:
    names = DISPUTE if action.disputed else APPROVAL
    page = PAGE.format(
        title="A disputed charge" if action.disputed else "Confirm a payment",
        amount=escape(format_money(Money(action.value, action.currency))),
        order=escape(action.order_id),
        state=STATES[action.state],
        form=_form(names) if action.awaits_decision else "",
        back=BACK.format(escape(action.return_url)) if action.return_url and not action.awaits_decision else "",
    )
    return Response(page, headers={"Content-Security-Policy": POLICY}, content_type="text/html; charset=utf-8")


def _form(names: Mapping[str, str]) -> str:
    buttons = "\n".join(f'<button name="decision" value="{value}">{name}</button>' for value, name in names.items())
    return f'<form method="post">\n{buttons}\n</form>'


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body>
<main>
<h1>{title}</h1>
<p>This is the simulated payment provider: no money moves.</p>
<p>{amount} for order <code>{order}</code></p>
<p role="status">{state}</p>
{form}
{back}
</main>
</body>
</html>
"""
BACK = '<p><a href="{}">Back to the shop</a></p>'
