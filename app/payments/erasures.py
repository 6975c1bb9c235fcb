"""Erases the personal data in payments."""

from app.contracts.base import PersonalDataErased
from app.contracts.payments import ErasePayments
from app.messaging.handlers import handles
from app.payments.repository import PaymentRepository


class PaymentErasureService:
    """Handles the erasure of a user's personal data."""

    def __init__(self, payments: PaymentRepository) -> None:
        self._payments = payments

    @handles(ErasePayments)
    def erase(self, request: ErasePayments) -> PersonalDataErased:
        """Erase it in the payments of some orders."""
        erased = self._payments.pseudonymize(request.order_ids, request.former_user_id, request.pseudonym)
        return PersonalDataErased(documents=erased)
