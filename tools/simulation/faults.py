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
    JUMP = "time jumps"


READS = frozenset({"find", "find_one", "count_documents"})
# A read that is late or answered in vain changes nothing.
READ_FAULTS = (DatabaseFault.REQUEST_LOST, DatabaseFault.DEATH_BEFORE)
FIND_FAULTS = (ProviderFault.REQUEST_LOST, ProviderFault.HANGS, ProviderFault.RAISES, ProviderFault.DEATH_BEFORE)


def database_faults(method: str) -> tuple[DatabaseFault, ...]:
    """The faults that a command of this method may have."""
    return READ_FAULTS if method in READS else tuple(DatabaseFault)


def provider_faults(verb: str) -> tuple[ProviderFault, ...]:
    """The faults that a call may have: charge, void, refund or find."""
    return FIND_FAULTS if verb == "find" else tuple(ProviderFault)
