"""The faults that a seed may inject, and where each may happen."""

from enum import StrEnum


class DatabaseFault(StrEnum):
    """What may happen to one command. A late command takes effect after its sender was told that it failed."""

    REQUEST_LOST = "request lost"
    REPLY_LOST = "reply lost"
    LATE = "late"
    DEATH_BEFORE = "death before"
    DEATH_AFTER = "death after"


class ProviderFault(StrEnum):
    """What may happen to one call."""

    REFUSED = "refused for now"
    REQUEST_LOST = "request lost"
    REPLY_LOST = "reply lost"
    LATE = "late"
    TWICE = "twice"
    HANGS = "hangs"
    RAISES = "raises"
    DEATH_BEFORE = "death before"
    DEATH_AFTER = "death after"


class NotificationFault(StrEnum):
    """What may happen to one notification of the provider. One that is untrue says what has not happened."""

    LOST = "lost"
    TWICE = "twice"
    LATE = "late"
    OUT_OF_ORDER = "out of order"
    UNTRUE = "untrue"
    UNKNOWN_ORDER = "of an unknown order"
    FORGED = "forged"


class WorldFault(StrEnum):
    """What may happen at any moment."""

    KILL = "a process is killed"
    STOP = "a process is stopped"
    OUTAGE = "the provider is out of order"
    NO_PRIMARY = "the database has no primary"
    POISON = "a receiver cannot handle an order's events"
    AGAIN = "an event is delivered again"
    CLOSED_CARD = "refunds of an order are refused for good"
    OPERATOR = "an operator acts"
    ELSEWHERE = "a refund is made at the provider"
    DECISION = "a customer or a bank decides"
    JUMP = "time jumps"


LOOKS = frozenset({"find", "retrieve"})
READS = frozenset({"find", "find_one", "count_documents"})
# A read that is late or answered in vain changes nothing.
READ_FAULTS = (DatabaseFault.REQUEST_LOST, DatabaseFault.DEATH_BEFORE)
NOTIFICATION = "provider notification"
FIND_FAULTS = (ProviderFault.REQUEST_LOST, ProviderFault.HANGS, ProviderFault.RAISES, ProviderFault.DEATH_BEFORE)


def database_faults(method: str) -> tuple[DatabaseFault, ...]:
    """The faults that a command of this method may have."""
    return READ_FAULTS if method in READS else tuple(DatabaseFault)


def provider_faults(verb: str) -> tuple[ProviderFault, ...]:
    """The faults that a call may have. One that changes nothing may be late or lost on its way back without any trace."""
    return FIND_FAULTS if verb in LOOKS else tuple(ProviderFault)
