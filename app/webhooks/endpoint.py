"""An endpoint: where a user's system receives webhooks, of which events, and with which secrets. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from app.contracts.webhooks import EVENT_TYPES, SignatureScheme
from app.webhooks.signatures import Secret

# An endpoint that has failed for so long, and has not succeeded once, is disabled.
FAILING_SECONDS = 5 * 86_400.0
ENDPOINTS_PER_USER = 16
# For so long the repetition of a request gets the first answer.
KEY_SECONDS = 86_400.0
# Two secrets sign while one is replaced; more would make the header long.
MAX_SECRETS = 3
MAX_URL = 2048
WILDCARD = "*"
HOST = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.?", re.IGNORECASE
)
# Hosts of digits only, such as 2130706433 or 0x7f.1, are addresses in forms that people read as something else.
NUMERIC_LABEL = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)
DISABLED_BY_USER = "disabled by its user"
GONE = "its receiver answered 410 Gone"
ONLY_FAILED = "it has only failed for five days"


class InvalidEndpoint(ValueError):
    """A member of an endpoint is not allowed: `member` is its name, the text one sentence."""

    def __init__(self, member: str, sentence: str) -> None:
        super().__init__(sentence)
        self.member = member


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where webhooks go.

    Its user's orders are told, or all orders where `user_id` is empty. `events` are event types or wildcards, such as `order.*`.
    `disabled_reason` is empty while it is enabled. `failing_since` is the first failure since its last success. `fingerprint` is
    that of the request that made it, empty where it cannot be repeated.
    """

    endpoint_id: str
    user_id: str
    url: str
    description: str
    events: tuple[str, ...]
    secrets: tuple[Secret, ...]
    created_at: datetime
    version: int = 1
    disabled_reason: str = ""
    failing_since: datetime | None = None
    fingerprint: str = ""

    @property
    def enabled(self) -> bool:
        """Whether deliveries are sent; otherwise they are held."""
        return not self.disabled_reason

    @property
    def signature(self) -> SignatureScheme:
        """How its webhooks are signed."""
        return self.secrets[0].scheme

    def receives(self, event_type: str, user_id: str) -> bool:
        """Whether an event of an order of this user goes to this endpoint."""
        return self.user_id in ("", user_id) and any(_matches(pattern, event_type) for pattern in self.events)

    def shows_secret(self, now: datetime) -> bool:
        """Whether its secret may be shown again where the request that made it is repeated: its first one, for a day."""
        [newest, *former] = self.secrets
        is_first = not former and newest.created_at <= self.created_at
        return is_first and (now - self.created_at).total_seconds() < KEY_SECONDS

    def signing_secrets(self, now: datetime) -> tuple[Secret, ...]:
        """The secrets that sign now, the newest first."""
        return tuple(secret for secret in self.secrets if secret.expires_at is None or secret.expires_at > now)


def rotated(endpoint: Endpoint, new: Secret, now: datetime, overlap: float) -> Endpoint:
    """The endpoint with a new secret; the present ones sign for `overlap` more seconds at most."""
    ends = now + timedelta(seconds=overlap)
    former = tuple(
        replace(secret, expires_at=min(secret.expires_at or ends, ends)) for secret in endpoint.signing_secrets(now)
    )
    kept = former[: MAX_SECRETS - 1] if overlap > 0 else ()
    return replace(endpoint, secrets=(new, *kept))


def after_attempt(endpoint: Endpoint, now: datetime, *, succeeded: bool, gone: bool) -> Endpoint:
    """The endpoint after an attempt: since when it has only failed, and disabled where that is too long or it is gone."""
    if not endpoint.enabled:
        return endpoint
    if succeeded:
        return replace(endpoint, failing_since=None)
    since = endpoint.failing_since or now
    only_failed = (now - since).total_seconds() >= FAILING_SECONDS
    return replace(endpoint, failing_since=since, disabled_reason=GONE if gone else ONLY_FAILED if only_failed else "")


def checked_events(patterns: Iterable[str]) -> tuple[str, ...]:
    """The patterns without duplicates. Raises InvalidEndpoint where one names no event type."""
    unique = tuple(dict.fromkeys(patterns))
    if not unique:
        raise InvalidEndpoint("events", "Name at least one event type, or * for all.")
    for pattern in unique:
        if not any(_matches(pattern, name) for name in EVENT_TYPES):
            raise InvalidEndpoint("events", f"{pattern} is no event type; they are {', '.join(EVENT_TYPES)}.")
    return unique


@dataclass(frozen=True)
class UrlRules:
    """What an endpoint's URL may be: with `plain_http` also http and any port, otherwise https with one of `ports`."""

    plain_http: bool = False
    ports: frozenset[int] = frozenset({443})


def checked_url(url: str, rules: UrlRules) -> str:
    """The URL, if webhooks may be sent there. Raises InvalidEndpoint.

    Only what is written is checked here; the addresses behind the name are checked at each connection.
    """
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise InvalidEndpoint("url", f"Must be an address of at most {MAX_URL} printable ASCII characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise InvalidEndpoint("url", "Must be an address such as https://shop.example/webhooks.") from exc
    if parts.scheme not in (("https", "http") if rules.plain_http else ("https",)):
        raise InvalidEndpoint("url", "Must begin with https://.")
    if "@" in parts.netloc:
        raise InvalidEndpoint("url", "Must not contain a user name or a password.")
    if parts.fragment:
        raise InvalidEndpoint("url", "Must not contain a fragment.")
    _check_host(parts.hostname or "")
    if not rules.plain_http and (443 if port is None else port) not in rules.ports:
        raise InvalidEndpoint("url", f"Must use one of the ports {', '.join(map(str, sorted(rules.ports)))}.")
    return url


def _check_host(host: str) -> None:
    is_ipv6 = _is_ipv6(host)
    if not is_ipv6 and not HOST.fullmatch(host):
        raise InvalidEndpoint("url", "Must name a host.")
    last = host.rstrip(".").rpartition(".")[2]
    if not is_ipv6 and NUMERIC_LABEL.fullmatch(last) and not _is_plain_ipv4(host):
        raise InvalidEndpoint("url", "Must name a host, or an IPv4 address as four decimal numbers.")


def _is_ipv6(host: str) -> bool:
    try:
        return IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _is_plain_ipv4(host: str) -> bool:
    numbers = host.split(".")
    return len(numbers) == 4 and all(
        text.isdecimal() and str(int(text)) == text and int(text) < 256 for text in numbers
    )


def _matches(pattern: str, event_type: str) -> bool:
    if pattern.endswith(WILDCARD):
        prefix = pattern[:-1]
        return event_type.startswith(prefix) and (not prefix or prefix.endswith("."))
    return pattern == event_type
