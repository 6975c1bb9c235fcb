"""Settings: the environment, read once, validated, frozen. `.env.example` explains each name."""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class BadSettings(ValueError):
    """One sentence a line on what in the environment cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be set, with defaults that run on a laptop. Times are in seconds unless the name says otherwise."""

    port: int = 7000
    bind: str = "127.0.0.1"
    published_on: str = ""
    allowed_hosts: str = ""
    forwarded_allow_ips: str = ""
    allow_unsafe: str = ""
    mongodb_uri: str | None = field(default=None, repr=False)
    database: str = "orderflow"
    data: Path = Path(".orderflow")
    log_format: str = "auto"
    log_level: str = "info"

    modules: str = "gateway,orders,payments"
    bus_url: str = field(default="", repr=False)
    bus_prefix: str = "orderflow"
    gateway_database: str = ""
    orders_database: str = ""
    payments_database: str = ""

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
    streams_max: int = 256
    streams_per_caller: int = 16

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

    simulated_demonstrations: str = "auto"
    simulated_unknown_product: str = "decline"
    simulated_latency_ms: int = 0
    simulated_fail_percent: int = 0
    simulated_timeout_before_percent: int = 0
    simulated_timeout_after_percent: int = 0

    def __post_init__(self) -> None:
        wrong = [sentence for holds, sentence in self._rules() if not holds]
        if wrong:
            raise BadSettings("\n".join(wrong))

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        """The settings that `environ` names. Raises BadSettings.

        An empty value counts as not set. `NAME_FILE` names a file that holds the value of `NAME`, as Docker hands
        secrets over.
        """
        given: dict[str, Any] = {}
        wrong: list[str] = []
        for each in fields(cls):
            name = env_name(each.name)
            try:
                text = _value(environ, name)
                if text:
                    given[each.name] = KINDS.get(each.type, str)(text)
            except (ValueError, KeyError):
                wrong.append(f"{name} must be {'0 or 1' if each.type is bool else 'a number'}")
            except OSError as exc:
                wrong.append(f"{name}_FILE cannot be read: {exc.strerror}")
        try:
            settings = cls(**given)
        except BadSettings as exc:
            wrong.append(str(exc))
        if wrong:
            raise BadSettings("\n".join(wrong))
        return settings

    @property
    def identity(self) -> bool:
        """Whether callers are asked who they are."""
        return bool(self.auth_jwt_algorithm)

    @property
    def demonstrations(self) -> bool:
        """Whether the simulated provider knows products that fail on purpose.

        By default where all modules share a process and nobody is asked who they are, as on a laptop.
        """
        if self.simulated_demonstrations == "auto":
            return self.runs("gateway") and not self.identity
        return self.simulated_demonstrations == "on"

    @property
    def counts_callers(self) -> bool:
        """Whether it is counted how often somebody calls."""
        return bool(self.rate_limit or (self.identity and self.auth_failure_limit))

    @property
    def key_life(self) -> float:
        """For how many seconds a provider's key may be sent: a lease less than the provider knows it.

        A lease outlasts a call, so that what is sent at the last moment arrives while the provider knows the key.
        """
        return self.provider_key_hours * 3600 - self.payment_lease

    @property
    def last_restore(self) -> datetime:
        """When the database was last restored from a backup; before anything that is stored, where it was not."""
        return _moment(self.restored_at) or EPOCH

    @property
    def listen_address(self) -> str:
        """Where to listen, as host:port; the host is in brackets if it is an IPv6 address."""
        host = _without_brackets(self.bind)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def trusted_proxies(self) -> str:
        """FORWARDED_ALLOW_IPS, each IPv4 network also in the form that a listener on IPv6 sees: ::ffff:10.0.0.0/104."""
        if self.forwarded_allow_ips == "*":
            return "*"
        named = [ipaddress.ip_network(name) for name in sorted(_names(self.forwarded_allow_ips))]
        mapped = [f"::ffff:{each.network_address}/{96 + each.prefixlen}" for each in named if each.version == 4]
        return ",".join([*map(str, named), *mapped])

    @property
    def own_hosts(self) -> set[str]:
        """The names that this server answers to, beside those of the machine it runs on."""
        return _names(self.allowed_hosts)

    def runs(self, module: str) -> bool:
        """Whether this process runs the module."""
        return module in _names(self.modules)

    def database_of(self, module: str) -> str:
        """The name of the module's database; all share one unless they are given their own."""
        own: str = getattr(self, f"{module}_database")
        return own or self.database

    def allows(self, unsafe: str) -> bool:
        """Whether what is `unsafe` is wanted all the same."""
        return unsafe in _names(self.allow_unsafe)

    def _rules(self) -> list[tuple[bool, str]]:
        least_lease = self.payment_timeout + 2 * self.background_deadline
        percents = [
            self.simulated_fail_percent,
            self.simulated_timeout_before_percent,
            self.simulated_timeout_after_percent,
        ]
        times = [(each.name, getattr(self, each.name)) for each in fields(self) if each.type is float]
        return [
            *((0 < value < math.inf, f"{env_name(name)} must be a number above 0") for name, value in times),
            (self.simulated_latency_ms >= 0, "SIMULATED_LATENCY_MS must not be below 0"),
            (0 <= self.port <= 65535, f"PORT is {self.port}: a port lies between 0 and 65535"),
            (self.log_format in LOG_FORMATS, f"LOG_FORMAT is {self.log_format!r}: use one of {LOG_FORMATS}"),
            (self.log_level in LOG_LEVELS, f"LOG_LEVEL is {self.log_level!r}: use one of {LOG_LEVELS}"),
            (1 <= self.payment_threads <= 512, "PAYMENT_THREADS must lie between 1 and 512"),
            (self.payment_tries >= 1, "PAYMENT_TRIES must be at least 1"),
            (
                self.payment_horizon < self.key_life,
                "PAYMENT_HORIZON must end a PAYMENT_LEASE before the provider forgets its keys (PROVIDER_KEY_HOURS)",
            ),
            (
                not self.restored_at or bool(_moment(self.restored_at)),
                "RESTORED_AT must be a time with its offset from UTC, such as 2026-11-24T03:00:00Z",
            ),
            (self.requests_per_connection >= 1, "REQUESTS_PER_CONNECTION must be at least 1"),
            (self.connections_per_address >= 1, "CONNECTIONS_PER_ADDRESS must be at least 1"),
            (self.relay_tries >= 1, "RELAY_TRIES must be at least 1"),
            (self.breaker_failures >= 1, "BREAKER_FAILURES must be at least 1"),
            (self.backlog_limit >= 1, "BACKLOG_LIMIT must be at least 1"),
            (self.open_orders_per_user >= 1, "OPEN_ORDERS_PER_USER must be at least 1"),
            (
                0 <= self.streams_per_caller <= self.streams_max,
                "STREAMS_PER_CALLER must not be below 0 or exceed STREAMS_MAX",
            ),
            (not self.cursor_key or len(self.cursor_key) >= 32, "CURSOR_KEY must have at least 32 characters"),
            (
                self.payment_lease > least_lease,
                f"PAYMENT_LEASE must outlast PAYMENT_TIMEOUT and two BACKGROUND_DEADLINEs: {least_lease:g} s",
            ),
            (
                self.background_stall > self.payment_lease + 2 * self.background_deadline,
                "BACKGROUND_STALL must outlast PAYMENT_LEASE and two BACKGROUND_DEADLINEs",
            ),
            (
                self.simulated_demonstrations in ("auto", "on", "off"),
                "SIMULATED_DEMONSTRATIONS must be auto, on or off",
            ),
            (
                self.simulated_unknown_product in ("decline", "capture"),
                "SIMULATED_UNKNOWN_PRODUCT must be decline or capture",
            ),
            (
                all(0 <= percent <= 100 for percent in percents) and sum(percents) <= 100,
                "SIMULATED_…_PERCENT must lie between 0 and 100, and together not exceed 100",
            ),
            *self._bus_rules(),
            *self._identity_rules(),
            *self._safety_rules(),
        ]

    def _bus_rules(self) -> list[tuple[bool, str]]:
        here = _names(self.modules)
        return [
            (
                bool(here) and here <= set(MODULES),
                f"MODULES is {self.modules!r}: it may name {', '.join(MODULES)}",
            ),
            (
                bool(self.bus_url) or here >= set(MODULES),
                "MODULES leaves some out: set BUS_URL, so that they can be reached in other processes",
            ),
            (
                all(BUS_URL.fullmatch(one) for one in self.bus_url.split(";") if self.bus_url),
                "BUS_URL must begin with amqp:// or amqps:// and name a host; several have ; between them",
            ),
            (bool(BUS_PREFIX.fullmatch(self.bus_prefix)), "BUS_PREFIX may have 1 to 64 letters, digits, - and _"),
        ]

    def _identity_rules(self) -> list[tuple[bool, str]]:
        jwt = [self.auth_jwt_algorithm, self.auth_jwt_key or self.auth_jwt_jwks, self.auth_jwt_issuer]
        limits = (("RATE_LIMIT", self.rate_limit), ("AUTH_FAILURE_LIMIT", self.auth_failure_limit))
        return [
            (
                all((*jwt, self.auth_jwt_audience)) or not any((*jwt, self.auth_jwt_audience)),
                "AUTH_JWT_ALGORITHM, _KEY or _JWKS, _ISSUER and _AUDIENCE go together: set all or none",
            ),
            (not (self.auth_jwt_key and self.auth_jwt_jwks), "AUTH_JWT_KEY and AUTH_JWT_JWKS exclude each other"),
            (
                self.auth_jwt_algorithm in ("", *JWT_ALGORITHMS),
                f"AUTH_JWT_ALGORITHM is {self.auth_jwt_algorithm!r}: use one of {JWT_ALGORITHMS}",
            ),
            (0 <= self.auth_jwt_leeway <= 60, "AUTH_JWT_LEEWAY must lie between 0 and 60"),
            *(
                (
                    not given or bool(RATE_LIMIT.fullmatch(given)),
                    f"{name} is {given!r}: write such as 100/second;2000/minute",
                )
                for name, given in limits
            ),
        ]

    def _safety_rules(self) -> list[tuple[bool, str]]:
        reached = self.published_on or self.bind
        return [
            (
                _addresses(self.forwarded_allow_ips),
                "FORWARDED_ALLOW_IPS must be * or addresses and networks with commas between them",
            ),
            (
                all(HOST.fullmatch(name) for name in self.own_hosts),
                f"ALLOWED_HOSTS is {self.allowed_hosts!r}: it may list names and addresses, without ports, with commas between",
            ),
            (
                _names(self.allow_unsafe) <= set(UNSAFE),
                f"ALLOW_UNSAFE is {self.allow_unsafe!r}: it may name {', '.join(UNSAFE)}",
            ),
            (
                self.identity or not self.runs("gateway") or _only_this_machine(reached) or self.allows("no_identity"),
                f"Others can reach {reached} and nobody is asked who they are: set AUTH_JWT_… or ALLOW_UNSAFE=no_identity",
            ),
            *(
                (
                    not known or self.allows("default_password"),
                    f"{name} has a password that everybody tries first: change it or set ALLOW_UNSAFE=default_password",
                )
                for name, known in (
                    ("MONGODB_URI", _well_known_password(self.mongodb_uri or "")),
                    ("BUS_URL", any(_well_known_password(url) and not _local(url) for url in self.bus_url.split(";"))),
                )
            ),
        ]


EPOCH = datetime.fromtimestamp(0, UTC)
MODULES = ("gateway", "orders", "payments")
BUS_URL = re.compile(r"amqps?://(?:[^\s/@]*@)?[^\s/@]+(?:/\S*)?")
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
BUS_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}")
LOG_FORMATS = ("auto", "console", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
JWT_ALGORITHMS = (*(f"{kind}{bits}" for kind in ("HS", "RS", "PS", "ES") for bits in (256, 384, 512)), "EdDSA")
RATE = r"[1-9]\d{0,8}/(second|minute|hour|day)"
RATE_LIMIT = re.compile(f"{RATE}(;{RATE}){{0,3}}")
UNSAFE = ("no_identity", "default_password", "short_jwt_key")
URI_PASSWORD = re.compile(r"(?:mongodb(?:\+srv)?|amqps?)://(?P<user>[^:@/]*):(?P<password>[^@/]*)@")
WELL_KNOWN = frozenset(
    [
        *("123456", "admin", "changeme", "change_me", "default", "example", "guest", "mongo", "mongodb", "orderflow"),
        *("pass", "passw0rd", "password", "password123", "postgres", "qwerty", "root", "secret", "test", "user"),
    ]
)
# What other programs, the replaced system among them, call settings of ours.
FOREIGN_NAMES = {
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
# A value that looks otherwise is meant for another program: Kubernetes sets API_PORT=tcp://… beside a service named api.
FOREIGN_VALUES = {"PORT": r"\d+", "MONGODB_URI": r"mongodb(\+srv)?://.*", "BUS_URL": r"amqps?://.*"}
ENV_NAMES = {"data": "ORDERFLOW_DATA", "database": "MONGODB_DATABASE"}


def env_name(field: str) -> str:
    """The environment's name for a setting."""
    return ENV_NAMES.get(field, field.upper())


def _moment(text: str) -> datetime | None:
    """The time that RFC 3339 text names; None where it is none, or names no offset from UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def foreign_names(environ: Mapping[str, str]) -> str:
    """One sentence on variables that are another program's names for settings which are not set; empty if there are none."""
    found = [
        f"{ours} instead of {theirs}"
        for theirs, ours in FOREIGN_NAMES.items()
        if re.fullmatch(FOREIGN_VALUES.get(ours, ".+"), environ.get(theirs, "").strip())
        and not (environ.get(ours) or environ.get(f"{ours}_FILE"))
    ]
    return f"Some variables in the environment are not read: set {', '.join(found)}" if found else ""


def _flag(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def _addresses(text: str) -> bool:
    try:
        return text == "*" or all(ipaddress.ip_network(name) for name in _names(text))
    except ValueError:
        return False


def _without_brackets(address: str) -> str:
    return address.removeprefix("[").removesuffix("]")


def _only_this_machine(address: str) -> bool:
    try:
        return address in ("localhost", "") or ipaddress.ip_address(_without_brackets(address)).is_loopback
    except ValueError:
        return False


def _local(url: str) -> bool:
    """Whether the broker is on this machine, where it lets its guest in and from nowhere else."""
    return _only_this_machine(urlsplit(url).hostname or "")


def _well_known_password(uri: str) -> bool:
    given = URI_PASSWORD.match(uri)
    if not given:
        return False
    password = unquote(given["password"]).lower()
    return password in WELL_KNOWN or password in ("", unquote(given["user"]).lower())


KINDS: dict[Any, Callable[[str], Any]] = {int: int, float: float, Path: Path, bool: _flag}


def _value(environ: Mapping[str, str], name: str) -> str:
    file = environ.get(f"{name}_FILE", "").strip()
    return environ.get(name, "").strip() or (Path(file).read_text().strip() if file else "")
