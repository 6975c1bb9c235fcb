"""What a person decides on a page of the simulated provider: the customer about a payment, the bank about a dispute."""

from collections.abc import Callable

from app.contracts.base import NotFound
from app.contracts.payments import DecideProviderAction, FindProviderAction, ProviderAction
from app.messaging.handlers import handles
from app.payments.providers import entries
from app.payments.providers.ledger import Ledger
from app.storage.mongodb import Document


class DecisionService:
    """Finds what a page is about, and records the decision; `on_decision` is called after each one."""

    def __init__(self, ledger: Ledger, on_decision: Callable[[], object]) -> None:
        self._ledger = ledger
        self._on_decision = on_decision

    @handles(FindProviderAction)
    def find(self, request: FindProviderAction) -> ProviderAction:
        """What the page with this token is about. Raises NotFound."""
        return _action(self._entry(request.token))

    @handles(DecideProviderAction)
    def decide(self, request: DecideProviderAction) -> ProviderAction:
        """Record the decision where one is awaited, and return what is true then. Raises NotFound."""
        entry = self._entry(request.token)
        update = entries.decision_update(entry, request.approve)
        if update:
            entry = self._ledger.update(entry, update)
            self._on_decision()
        return _action(entry)

    def _entry(self, token: str) -> Document:
        found = self._ledger.find_by_token(token)
        if found is None:
            raise NotFound("there is no such page")
        return self._ledger.settled(found)


def _action(entry: Document) -> ProviderAction:
    dispute = entries.disputed(entry)
    return ProviderAction(
        order_id=entry["orderId"],
        value=entry["dispute"]["value"] if dispute else entry["value"],
        currency=entry["currency"],
        disputed=dispute is not None,
        awaits_decision=entries.awaits_decision(entry),
        state=dispute or entry["answer"],
        return_url=entry.get("returnUrl", ""),
    )
