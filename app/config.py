"""Settings: read once from the environment, validated and immutable. `.env.example` explains each name."""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from app.addresses import is_loopback, is_page_origin, web_origin


class BadSettings(ValueError):
    """The environment has invalid settings. The message has one sentence per line, one for each of them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, with defaults for one machine. Times are in seconds unless the name says otherwise."""

    port: int = 7000
    bind: str = "127.0.0.1"
    published_on: str = ""
    published_port: int = 0
    web_concurrency: int = 2
    allowed_hosts: str = ""
    cors_origins: str = ""
    forwarded_allow_ips: str = ""
    allow_unsafe: str = ""
    mongodb_uri: str | None = field(default=None, repr=False)
    database: str = "orderflow"
    data: Path = Path(".orderflow")
    log_format: str = "auto"
    log_level: str = "info"
    request_log: str = "failed"

    modules: str = "gateway,orders,payments,webhooks"
    bus_url: str = field(default="", repr=False)
    bus_prefix: str = "orderflow"
    gateway_database: str = ""
    orders_database: str = ""
    payments_database: str = ""
    webhooks_database: str = ""

    auth_jwt_algorithm: str = ""
    auth_jwt_key: str | None = field(default=None, repr=False)
    auth_jwt_jwks: str | None = field(default=None, repr=False)
    auth_jwt_issuer: str = ""
    auth_jwt_audience: str = ""
    auth_jwt_leeway: int = 10
    auth_failure_limit: str = "30/minute"
    metrics_public: bool = False
    rate_limit: str = ""
    cursor_key: str = field(default="", repr=False)
    strict_bodies: bool = True
    streams_max: int = 256
    streams_per_caller: int = 16
    exports_max: int = 4

    head_deadline: float = 5.0
    body_deadline: float = 10.0
    requests_per_connection: int = 1000
    connections_per_address: int = 500
    request_deadline: float = 1.8
    background_deadline: float = 5.0

    payment_provider: str = "simulated"
    payment_threads: int = 64
    payment_timeout: float = 10.0
    payment_lease: float = 30.0
    payment_tries: int = 12
    payment_horizon: float = 20 * 3600.0
    provider_key_hours: float = 24.0
    restored_at: str = ""
    payment_pending_hours: float = 24.0
    authorization_days: float = 6.0
    payment_poll_min: float = 60.0
    payment_poll_max: float = 21_600.0
    return_url_origins: str = ""
    payment_backoff: float = 2.0
    payment_backoff_max: float = 300.0

    breaker_failures: int = 10
    breaker_recovery: float = 10.0
    backlog_limit: int = 10_000
    open_orders_per_user: int = 1000
    idempotency_hours: float = 24.0

    relay_lease: float = 10.0
    relay_tries: int = 8
    sweep_interval: float = 1.0
    background_stall: float = 90.0

    stripe_secret_key: str = field(default="", repr=False)
    stripe_webhook_secret: str = field(default="", repr=False)
    stripe_api_base: str = ""

    webhooks: bool = True
    webhook_threads: int = 64
    webhook_threads_per_endpoint: int = 8
    webhook_ports: str = "443"
    webhook_networks: str = ""

    simulated_demonstrations: str = "auto"
    simulated_unknown_product: str = "decline"
    simulated_latency_ms: int = 0
    simulated_fail_percent: int = 0
    simulated_timeout_before_percent: int = 0
    simulated_timeout_after_percent: int = 0

    def __post_init__(self) -> None:
        errors = [sentence for holds, sentence in self._rules() if not holds]
        if errors:
            raise BadSettings("\n".join(errors))

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings from `environ`. Raises BadSettings.

        An empty value counts as not set. `NAME_FILE` is the path of a file with the value of `NAME`, such as a Docker secret.
        """
        values: dict[str, Any] = {}
        errors: list[str] = []
        for setting in fields(cls):
            name = env_name(setting.name)
            try:
                text = _read_value(environ, name)
                if text:
                    values[setting.name] = PARSERS.get(setting.type, str)(text)
            except (ValueError, KeyError):
                errors.append(f"{name} must be {'0 or 1' if setting.type is bool else 'a number'}")
            except OSError as exc:
                errors.append(f"{name}_FILE cannot be read: {exc.strerror}")
        try:
            settings = cls(**values)
        except BadSettings as exc:
            errors.append(str(exc))
        if errors:
            raise BadSettings("\n".join(errors))
        return settings

    @property
    def identity(self) -> bool:
        """Whether callers must authenticate with a token."""
        return bool(self.auth_jwt_algorithm)

    @property
    def demonstrations(self) -> bool:
        """Whether the simulated provider is used, and has products that fail on purpose or go on later.

        By default only without authentication and with the gateway in this process, as on a laptop.
        """
        if self.payment_provider != "simulated":
            return False
        if self.simulated_demonstrations == "auto":
            return self.runs("gateway") and not self.identity
        return self.simulated_demonstrations == "on"

    @property
    def counts_requests(self) -> bool:
        """Whether the requests or failed authentications of each caller are counted, for rate limits."""
        return bool(self.rate_limit or (self.identity and self.auth_failure_limit))

    @property
    def key_life(self) -> float:
        """For how many seconds a provider key may be sent: a lease less than the provider remembers it.

        A lease is longer than a call, so a call at the last moment still arrives while the provider remembers the key.
        """
        return self.provider_key_hours * 3600 - self.payment_lease

    @property
    def stripe_webhook_secrets(self) -> tuple[str, ...]:
        """The secrets that may have signed a notification: the present one and, while it is replaced, the former."""
        return tuple(sorted(_split(self.stripe_webhook_secret)))

    @property
    def stripe_warnings(self) -> list[str]:
        """Sentences on a key of Stripe that does not suit the address, and on notifications that nothing verifies."""
        if self.payment_provider != "stripe" or not self.runs("gateway"):
            return []
        local, key = is_loopback(self.published_on or self.bind), STRIPE_KEY.fullmatch(self.stripe_secret_key)
        mode = key["mode"] if key else ""
        warnings = {
            "STRIPE_SECRET_KEY is a live key, and only this machine can reach the server: orders take real money": (
                local and mode == "live"
            ),
            "STRIPE_SECRET_KEY is a test key, and other machines can reach the server: no order takes any money": (
                not local and mode == "test"
            ),
            "STRIPE_WEBHOOK_SECRET is not set: Stripe's notifications are refused, and payments settle minutes later": (
                mode and not self.stripe_webhook_secrets
            ),
        }
        return [sentence for sentence, holds in warnings.items() if holds]

    @property
    def last_restore(self) -> datetime:
        """When the database was last restored from a backup; 1970 if never."""
        return _parse_time(self.restored_at) or EPOCH

    @property
    def listen_address(self) -> str:
        """The address to listen on, as host:port; an IPv6 address is in brackets."""
        host = _without_brackets(self.bind)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def trusted_proxies(self) -> str:
        """FORWARDED_ALLOW_IPS, with each IPv4 network also as an IPv6 listener sees it: ::ffff:10.0.0.0/104."""
        if self.forwarded_allow_ips == "*":
            return "*"
        networks = [ipaddress.ip_network(name) for name in sorted(_split(self.forwarded_allow_ips))]
        mapped = [f"::ffff:{one.network_address}/{96 + one.prefixlen}" for one in networks if one.version == 4]
        return ",".join([*map(str, networks), *mapped])

    @property
    def host_names(self) -> set[str]:
        """The host names in ALLOWED_HOSTS."""
        return _split(self.allowed_hosts)

    @property
    def return_origins(self) -> frozenset[str]:
        """The origins in RETURN_URL_ORIGINS, in the form of `web_origin`."""
        return frozenset(map(web_origin, _split(self.return_url_origins)))

    @property
    def _no_page_origins(self) -> list[str]:
        return sorted(origin for origin in self.page_origins if not is_page_origin(origin))

    @property
    def page_origins(self) -> frozenset[str]:
        """The origins in CORS_ORIGINS, as browsers send them."""
        return frozenset(_split(self.cors_origins))

    @property
    def webhooks_wanted(self) -> bool:
        """Whether a process, this one or another, runs the module webhooks."""
        return self.webhooks and (bool(self.bus_url) or "webhooks" in _split(self.modules))

    @property
    def webhook_port_numbers(self) -> frozenset[int]:
        """The ports that webhooks may be sent to."""
        return frozenset(map(int, _split(self.webhook_ports)))

    @property
    def webhook_private_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks that are not public and that webhooks may be sent to nevertheless."""
        return tuple(map(ipaddress.ip_network, sorted(_split(self.webhook_networks))))

    @property
    def is_development(self) -> bool:
        """Whether this is a server on a laptop: a database of its own, simulated payments, no authentication, and no way in from
        other machines, also not by way of a proxy.
        """
        alone = not self.mongodb_uri and not self.bus_url and self.payment_provider == "simulated"
        reachable = self.published_on or self.forwarded_allow_ips or self.allowed_hosts or not is_loopback(self.bind)
        return alone and not reachable and not self.identity and not self.allows("no_identity")

    @property
    def webhook_http(self) -> bool:
        """Whether webhooks may go to this machine, and over http to any port."""
        return self.allows("webhook_http") or self.is_development

    def runs(self, module: str) -> bool:
        """Whether this process runs the module."""
        return module in _split(self.modules) and (module != "webhooks" or self.webhooks)

    def database_of(self, module: str) -> str:
        """The name of the module's database: its own, or else the one that all share."""
        own: str = getattr(self, f"{module}_database")
        return own or self.database

    def allows(self, unsafe: str) -> bool:
        """Whether ALLOW_UNSAFE names this."""
        return unsafe in _split(self.allow_unsafe)

    def _rules(self) -> list[tuple[bool, str]]:
        least_lease = self.payment_timeout + 2 * self.background_deadline
        percents = [
            self.simulated_fail_percent,
            self.simulated_timeout_before_percent,
            self.simulated_timeout_after_percent,
        ]
        times = [(one.name, getattr(self, one.name)) for one in fields(self) if one.type is float]
        return [
            *((0 < value < math.inf, f"{env_name(name)} must be a number above 0") for name, value in times),
            (self.simulated_latency_ms >= 0, "SIMULATED_LATENCY_MS must not be below 0"),
            *(
                (
                    0 <= getattr(self, name) <= 65535,
                    f"{env_name(name)} is {getattr(self, name)}: a port is between 0 and 65535",
                )
                for name in ("port", "published_port")
            ),
            *((getattr(self, name) >= 1, f"{env_name(name)} must be at least 1") for name in AT_LEAST_1),
            *(
                (getattr(self, name) in choices, f"{env_name(name)} is {getattr(self, name)!r}: use one of {choices}")
                for name, choices in CHOICES.items()
            ),
            (1 <= self.payment_threads <= 512, "PAYMENT_THREADS must be between 1 and 512"),
            (
                self.payment_horizon < self.key_life,
                "PAYMENT_HORIZON must be less than PROVIDER_KEY_HOURS minus PAYMENT_LEASE",
            ),
            (self.payment_poll_min <= self.payment_poll_max, "PAYMENT_POLL_MIN must not be above PAYMENT_POLL_MAX"),
            (
                not self.restored_at or bool(_parse_time(self.restored_at)),
                "RESTORED_AT must be a time with an offset from UTC, such as 2026-11-24T03:00:00Z",
            ),
            (
                0 <= self.streams_per_caller <= self.streams_max,
                "STREAMS_PER_CALLER must be between 0 and STREAMS_MAX",
            ),
            (
                bool(REQUEST_LOG.fullmatch(self.request_log)),
                f"REQUEST_LOG is {self.request_log!r}: use all, failed, off, or a share between 0 and 1 such as 0.1",
            ),
            (not self.cursor_key or len(self.cursor_key) >= 32, "CURSOR_KEY must have at least 32 characters"),
            (
                self.payment_lease > least_lease,
                f"PAYMENT_LEASE must be more than PAYMENT_TIMEOUT plus two BACKGROUND_DEADLINEs: {least_lease:g} s",
            ),
            (
                self.background_stall > self.payment_lease + 2 * self.background_deadline,
                "BACKGROUND_STALL must be more than PAYMENT_LEASE plus two BACKGROUND_DEADLINEs",
            ),
            (
                all(0 <= percent <= 100 for percent in percents) and sum(percents) <= 100,
                "SIMULATED_…_PERCENT must be between 0 and 100, and their sum at most 100",
            ),
            *self._stripe_rules(),
            *self._webhook_rules(),
            *self._bus_rules(),
            *self._identity_rules(),
            *self._safety_rules(),
        ]

    def _stripe_rules(self) -> list[tuple[bool, str]]:
        if self.payment_provider != "stripe" or not self.runs("payments"):
            return []
        secrets = self.stripe_webhook_secrets
        return [
            (
                bool(STRIPE_KEY.fullmatch(self.stripe_secret_key)),
                "PAYMENT_PROVIDER is stripe: set STRIPE_SECRET_KEY_FILE to a file with a key such as sk_test_… or sk_live_…",
            ),
            (
                len(secrets) <= 2 and all(secret.startswith("whsec_") for secret in secrets),
                "STRIPE_WEBHOOK_SECRET must be one or two secrets that begin with whsec_, separated by a comma",
            ),
            (
                not self.stripe_api_base or _is_safe_url(self.stripe_api_base),
                "STRIPE_API_BASE must begin with https://, or with http:// on this machine, and have no path",
            ),
            (self.provider_key_hours <= 24, "PROVIDER_KEY_HOURS must be at most 24: Stripe forgets keys after that"),
        ]

    def _webhook_rules(self) -> list[tuple[bool, str]]:
        return [
            (1 <= self.webhook_threads <= 512, "WEBHOOK_THREADS must be between 1 and 512"),
            (
                all(PORT.fullmatch(port) and int(port) <= 65535 for port in _split(self.webhook_ports)),
                "WEBHOOK_PORTS must be ports, separated by commas",
            ),
            (
                self.webhook_networks != "*" and _are_networks(self.webhook_networks),
                "WEBHOOK_NETWORKS must be addresses and networks such as 10.0.0.0/8, separated by commas",
            ),
        ]

    def _bus_rules(self) -> list[tuple[bool, str]]:
        here = _split(self.modules)
        return [
            (
                bool(here) and here <= set(MODULES),
                f"MODULES is {self.modules!r}: use {', '.join(MODULES)}",
            ),
            (
                bool(self.bus_url) or here >= {*MODULES} - {"webhooks"},
                "MODULES omits some modules: set BUS_URL, so that they can be reached in other processes",
            ),
            (
                all(BUS_URL.fullmatch(one) for one in self.bus_url.split(";") if self.bus_url),
                "BUS_URL must begin with amqp:// or amqps:// and have a host; separate several with ;",
            ),
            (bool(BUS_PREFIX.fullmatch(self.bus_prefix)), "BUS_PREFIX must have 1 to 64 letters, digits, - or _"),
        ]

    def _identity_rules(self) -> list[tuple[bool, str]]:
        jwt = [self.auth_jwt_algorithm, self.auth_jwt_key or self.auth_jwt_jwks, self.auth_jwt_issuer]
        limits = (("RATE_LIMIT", self.rate_limit), ("AUTH_FAILURE_LIMIT", self.auth_failure_limit))
        return [
            (
                all((*jwt, self.auth_jwt_audience)) or not any((*jwt, self.auth_jwt_audience)),
                "AUTH_JWT_ALGORITHM, _KEY or _JWKS, _ISSUER and _AUDIENCE belong together: set all or none",
            ),
            (not (self.auth_jwt_key and self.auth_jwt_jwks), "AUTH_JWT_KEY and AUTH_JWT_JWKS exclude each other"),
            (0 <= self.auth_jwt_leeway <= 60, "AUTH_JWT_LEEWAY must be between 0 and 60"),
            *(
                (
                    not limit or bool(RATE_LIMIT.fullmatch(limit)),
                    f"{name} is {limit!r}: use a form such as 100/second;2000/minute",
                )
                for name, limit in limits
            ),
        ]

    def _safety_rules(self) -> list[tuple[bool, str]]:
        address = self.published_on or self.bind
        return [
            (
                _are_networks(self.forwarded_allow_ips),
                "FORWARDED_ALLOW_IPS must be * or addresses and networks, separated by commas",
            ),
            (
                all(HOST.fullmatch(name) for name in self.host_names),
                f"ALLOWED_HOSTS is {self.allowed_hosts!r}: use names and addresses without ports, separated by commas",
            ),
            (
                _are_origins(self.return_url_origins),
                "RETURN_URL_ORIGINS must be origins such as https://shop.example, separated by commas; http is for this machine only",
            ),
            (
                not self._no_page_origins,
                f"CORS_ORIGINS has {', '.join(map(repr, self._no_page_origins))}: use exact origins such as https://shop.example, in lower case, without *, user name, path, final slash or default port, separated by commas; http is for this machine only",
            ),
            (
                _split(self.allow_unsafe) <= set(UNSAFE),
                f"ALLOW_UNSAFE is {self.allow_unsafe!r}: use {', '.join(UNSAFE)}",
            ),
            (
                self.identity
                or not self.runs("gateway")
                or is_loopback(address or "localhost")
                or self.allows("no_identity"),
                f"Other machines can reach {address} without authentication: set AUTH_JWT_… or ALLOW_UNSAFE=no_identity",
            ),
            *(
                (
                    not guessable or self.allows("default_password"),
                    f"{name} has a well-known password: change it or set ALLOW_UNSAFE=default_password",
                )
                for name, guessable in (
                    ("MONGODB_URI", _has_known_password(self.mongodb_uri or "")),
                    (
                        "BUS_URL",
                        any(_has_known_password(url) and not _is_local(url) for url in self.bus_url.split(";")),
                    ),
                )
            ),
        ]


EPOCH = datetime.fromtimestamp(0, UTC)
MODULES = ("gateway", "orders", "payments", "webhooks")
BUS_URL = re.compile(r"amqps?://(?:[^\s/@]*@)?[^\s/@]+(?:/\S*)?")
STRIPE_KEY = re.compile(r"[sr]k_(?P<mode>test|live)_[!-~]{1,240}")
PORT = re.compile(r"[1-9][0-9]{0,4}")
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
ORIGIN = re.compile(r"[A-Za-z]+://[^/?#]+")
REQUEST_LOG = re.compile(r"all|failed|off|0|0?\.[0-9]{1,6}|1(\.0{1,6})?")
BUS_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}")
AT_LEAST_1 = (
    *(
        "web_concurrency",
        "requests_per_connection",
        "connections_per_address",
        "exports_max",
        "payment_tries",
        "relay_tries",
    ),
    *("breaker_failures", "backlog_limit", "open_orders_per_user", "webhook_threads_per_endpoint"),
)
CHOICES = {
    "log_format": ("auto", "console", "json"),
    "log_level": ("debug", "info", "warning", "error"),
    "auth_jwt_algorithm": (
        "",
        *(f"{kind}{bits}" for kind in ("HS", "RS", "PS", "ES") for bits in (256, 384, 512)),
        "EdDSA",
    ),
    "simulated_demonstrations": ("auto", "on", "off"),
    "simulated_unknown_product": ("decline", "capture"),
}
RATE = r"[1-9]\d{0,8}/(second|minute|hour|day)"
RATE_LIMIT = re.compile(f"{RATE}(;{RATE}){{0,3}}")
UNSAFE = ("no_identity", "default_password", "short_jwt_key", "webhook_http")
URI_PASSWORD = re.compile(r"(?:mongodb(?:\+srv)?|amqps?)://(?P<user>[^:@/]*):(?P<password>[^@/]*)@")
KNOWN_PASSWORDS = frozenset(
    [
        *("123456", "admin", "changeme", "change_me", "default", "example", "guest", "mongo", "mongodb", "orderflow"),
        *("pass", "passw0rd", "password", "password123", "postgres", "qwerty", "root", "secret", "test", "user"),
    ]
)
# Names that other programs, such as the replaced system, use for these settings.
ALIASES = {
    **dict.fromkeys(("API_PORT", "APP_PORT", "HTTP_PORT", "SERVER_PORT"), "PORT"),
    **dict.fromkeys(("MONGO_URL", "MONGO_URI", "MONGODB_URL", "DATABASE_URL", "DATABASE_URI", "DB_URL"), "MONGODB_URI"),
    **dict.fromkeys(("MONGO_DATABASE", "MONGO_DB", "MONGODB_DB", "MONGO_INITDB_DATABASE"), "MONGODB_DATABASE"),
    **dict.fromkeys(("RABBITMQ_URL", "RABBITMQ_URI", "AMQP_URL", "CLOUDAMQP_URL", "BROKER_URL"), "BUS_URL"),
    **dict.fromkeys(("JWT_SECRET", "JWT_KEY", "JWT_PUBLIC_KEY"), "AUTH_JWT_KEY"),
    "JWT_ISSUER": "AUTH_JWT_ISSUER",
    "JWT_AUDIENCE": "AUTH_JWT_AUDIENCE",
    "LOGLEVEL": "LOG_LEVEL",
    "WORKERS": "WEB_CONCURRENCY",
}
# Other values are meant for other programs: Kubernetes sets API_PORT=tcp://… for a service named api.
ALIAS_VALUES = {"PORT": r"\d+", "MONGODB_URI": r"mongodb(\+srv)?://.*", "BUS_URL": r"amqps?://.*"}
ENV_NAMES = {"data": "ORDERFLOW_DATA", "database": "MONGODB_DATABASE"}


def env_name(field: str) -> str:
    """The environment variable of a setting."""
    return ENV_NAMES.get(field, field.upper())


def _parse_time(text: str) -> datetime | None:
    """The time in RFC 3339 format; None if the text is no time or lacks the offset from UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else None


def alias_warning(environ: Mapping[str, str]) -> str:
    """One sentence on variables that have an alias of a setting which is not set; empty if there are none."""
    renames = [
        f"{name} instead of {alias}"
        for alias, name in ALIASES.items()
        if re.fullmatch(ALIAS_VALUES.get(name, ".+"), environ.get(alias, "").strip())
        and not (environ.get(name) or environ.get(f"{name}_FILE"))
    ]
    return f"Some variables in the environment are not read: set {', '.join(renames)}" if renames else ""


def _parse_flag(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _split(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def _are_networks(text: str) -> bool:
    try:
        return text == "*" or all(ipaddress.ip_network(name) for name in _split(text))
    except ValueError:
        return False


def _are_origins(text: str) -> bool:
    try:
        return all(web_origin(one) and ORIGIN.fullmatch(one) for one in _split(text))
    except ValueError:
        return False


def _without_brackets(address: str) -> str:
    return address.removeprefix("[").removesuffix("]")


def _is_local(url: str) -> bool:
    """Whether the broker is on this machine: RabbitMQ accepts its user guest only there."""
    return is_loopback(urlsplit(url).hostname or "localhost")


def _is_safe_url(url: str) -> bool:
    """Whether it is the root of an address that only the one named there can read."""
    parts = urlsplit(url)
    safe = parts.scheme == "https" or (parts.scheme == "http" and _is_local(url))
    return safe and bool(parts.hostname) and parts.path in ("", "/") and not parts.query and not parts.fragment


def _has_known_password(uri: str) -> bool:
    """Whether the URI has a well-known password, an empty one, or the name of its user."""
    login = URI_PASSWORD.match(uri)
    if not login:
        return False
    password = unquote(login["password"]).lower()
    return password in KNOWN_PASSWORDS or password in ("", unquote(login["user"]).lower())


PARSERS: dict[Any, Callable[[str], Any]] = {int: int, float: float, Path: Path, bool: _parse_flag}


def _read_value(environ: Mapping[str, str], name: str) -> str:
    file = environ.get(f"{name}_FILE", "").strip()
    return environ.get(name, "").strip() or (Path(file).read_text().strip() if file else "")
