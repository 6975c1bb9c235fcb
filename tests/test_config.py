"""Settings: their defaults, their names in the environment, and invalid values, which are all reported at once."""

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from app.config import ALIASES, BadSettings, Settings, alias_warning, env_name

EXAMPLE = Path(__file__).parents[1] / ".env.example"
# Read by the server's own configuration or by the embedded database, not by Settings.
ELSEWHERE = {"MONGOD", "WEB_CONCURRENCY", "WORKER_CLASS", "EDGE_NETWORK"}
# Read by the libraries that they are named after.
FOREIGN = "OTEL_"

# Values for settings whose default cannot be changed by adding one, or a hundredth.
OTHER = {
    "bind": "::1",
    "forwarded_allow_ips": "10.0.0.0/8, 192.0.2.7",
    "allow_unsafe": "no_identity,short_jwt_key",
    "auth_failure_limit": "5/hour",
    "rate_limit": "100/second;2000/minute",
    "mongodb_uri": "mongodb://elsewhere/?replicaSet=rs0",
    "auth_jwt_algorithm": "ES256",
    "modules": "orders, payments",
    "cors_origins": "https://shop.example, http://localhost:5173",
    "restored_at": "2026-11-24T03:00:00+08:00",
    "return_url_origins": "https://shop.example, http://localhost:3000",
    "bus_url": "amqps://a:drawn@one.example/flow;amqps://a:drawn@other.example/flow",
    "cursor_key": "a key of as many characters as it needs",
    "log_format": "console",
    "log_level": "debug",
    "request_log": "0.25",
    "simulated_demonstrations": "off",
    "simulated_unknown_product": "capture",
    "webhook_ports": "443,8443",
    "webhook_networks": "10.20.0.0/16, fd00::/8",
}
# These belong together.
IDENTITY = {
    "AUTH_JWT_ALGORITHM": "HS256",
    "AUTH_JWT_KEY": "a key of 32 bytes, neither more or less",
    "AUTH_JWT_ISSUER": "https://issuer.example",
    "AUTH_JWT_AUDIENCE": "orderflow",
}
NEEDED = {
    **{name.lower(): {other: IDENTITY[other] for other in IDENTITY if other != name} for name in IDENTITY},
    "auth_jwt_jwks": {name: value for name, value in IDENTITY.items() if name != "AUTH_JWT_KEY"},
    "published_on": IDENTITY,
    "modules": {"BUS_URL": "amqp://localhost"},
}
every_setting = pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)


def other(field):
    """A usable value that is not the default."""
    if field.name in OTHER:
        return OTHER[field.name]
    step = {bool: lambda default: not default, int: lambda default: default + 1, float: lambda default: default * 1.01}
    return step.get(field.type, lambda _: (Path if field.type is Path else str)("elsewhere"))(field.default)


def text_of(value):
    """A value as the environment has it."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def errors_of(**environ: str) -> list[str]:
    """The sentences of the error that reading these settings raises."""
    with pytest.raises(BadSettings) as caught:
        Settings.read(environ)
    return str(caught.value).splitlines()


def test_an_empty_environment_gives_the_defaults():
    assert Settings.read({}) == Settings()


def test_the_defaults_are_for_one_machine():
    settings = Settings()
    assert (settings.port, settings.bind, settings.mongodb_uri) == (7000, "127.0.0.1", None)
    assert settings.data == Path(".orderflow")
    assert settings.payment_provider == "simulated"


@every_setting
def test_every_setting_is_read_from_the_environment(field):
    value = other(field)
    assert value != field.default
    settings = Settings.read({**NEEDED.get(field.name, {}), env_name(field.name): text_of(value)})
    assert getattr(settings, field.name) == value
    assert type(getattr(settings, field.name)) is type(value)


@every_setting
def test_an_environment_name_sets_nothing_else(field):
    needed = NEEDED.get(field.name, {})
    settings = Settings.read({**needed, env_name(field.name): text_of(other(field))})
    changed = {each.name for each in fields(Settings) if getattr(settings, each.name) != each.default}
    assert changed == {field.name, *map(str.lower, needed)}


@every_setting
@pytest.mark.parametrize("empty", ["", "   "])
def test_an_empty_value_counts_as_not_set(field, empty):
    assert Settings.read({env_name(field.name): empty}) == Settings()


def test_space_around_a_value_is_not_part_of_it():
    settings = Settings.read({"PORT": " 7311\n", "MONGODB_URI": " mongodb://there "})
    assert (settings.port, settings.mongodb_uri) == (7311, "mongodb://there")


def test_every_environment_name_is_unique():
    names = [env_name(field.name) for field in fields(Settings)]
    assert len(set(names)) == len(names)
    assert {"PORT", "BIND", "MONGODB_URI", "MONGODB_DATABASE", "ORDERFLOW_DATA", "LOG_FORMAT"} <= set(names)


def test_other_names_in_the_environment_are_ignored():
    assert Settings.read({"DATA": "/elsewhere", "DATABASE": "other", "port": "1", "HOME": "/root"}) == Settings()


ALIAS_VALUES = {"PORT": "7311", "MONGODB_URI": "mongodb://there/", "BUS_URL": "amqp://there"}


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_of_a_setting_is_reported_with_the_name(alias, name):
    value = ALIAS_VALUES.get(name, "hunter2")
    warning = alias_warning({alias: value, "REDIS_URL": "redis://there"})
    assert warning == f"Some variables in the environment are not read: set {name} instead of {alias}"
    assert name in {env_name(field.name) for field in fields(Settings)} | ELSEWHERE
    assert alias_warning({alias: value, name: value}) == ""
    assert alias_warning({alias: value, f"{name}_FILE": "/there"}) == ""
    assert alias_warning({alias: ""}) == ""


@pytest.mark.parametrize(
    "environ",
    [{"API_PORT": "tcp://10.0.0.1:80"}, {"DATABASE_URL": "postgres://there"}, {"BROKER_URL": "redis://there"}],
)
def test_a_variable_of_another_program_is_not_reported(environ):
    assert alias_warning(environ) == ""


@pytest.mark.parametrize(
    ("bind", "address"),
    [("::1", "[::1]:7000"), ("[::1]", "[::1]:7000"), ("127.0.0.1", "127.0.0.1:7000"), ("localhost", "localhost:7000")],
)
def test_the_address_to_listen_on_is_written_as_the_server_takes_it(bind, address):
    assert Settings(bind=bind).listen_address == address


def test_return_origins_have_one_form():
    origins = "https://Shop.Example, https://shop.example:443,http://localhost:3000, http://[::1]:8080"
    assert Settings(return_url_origins=origins).return_origins == {
        "https://shop.example:443",
        "http://localhost:3000",
        "http://[::1]:8080",
    }
    assert Settings().return_origins == frozenset()


def test_page_origins_are_as_browsers_send_them():
    origins = (
        "https://shop.example, https://shop.example:8443,http://localhost:5173, http://127.0.0.1, http://[::1]:80801"
    )
    assert errors_of(CORS_ORIGINS=origins) != []
    origins = origins.replace("80801", "8080")
    assert Settings(cors_origins=origins).page_origins == {one.strip() for one in origins.split(",")}
    assert Settings().page_origins == frozenset()


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1


@pytest.mark.parametrize("field", [f for f in fields(Settings) if f.type in (int, float)], ids=lambda f: f.name)
@pytest.mark.parametrize("text", ["many", "1,5", "0x10", "--1"])
def test_a_malformed_number_is_refused_by_name(field, text):
    [error] = errors_of(**{env_name(field.name): text})
    assert error == f"{env_name(field.name)} must be a number"


def test_a_whole_number_has_no_fraction():
    assert errors_of(PORT="70.5") == ["PORT must be a number"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("PAYMENT_THREADS", "0"),
        ("PAYMENT_THREADS", "513"),
        ("PAYMENT_TRIES", "0"),
        ("RELAY_TRIES", "0"),
        ("REQUEST_DEADLINE", "0"),
        ("BACKGROUND_DEADLINE", "-1"),
        ("PAYMENT_TIMEOUT", "0"),
        ("SWEEP_INTERVAL", "0"),
        ("PAYMENT_LEASE", "20"),
        ("RELAY_LEASE", "0"),
        ("RELAY_LEASE", "-10"),
        ("PAYMENT_HORIZON", "-1"),
        ("PAYMENT_POLL_MIN", "21601"),
        ("PAYMENT_POLL_MAX", "59"),
        *(
            ("RETURN_URL_ORIGINS", origin)
            for origin in (
                *("shop.example", "http://shop.example", "https://shop.example/", "https://shop.example?x", "*"),
                *("https://shop.example#x", "https://*.shop.example", "https://me@shop.example", "ftp://shop.example"),
                *("https://shop.example:99999999", "https://shop.example https://b.example", "https://", "null"),
            )
        ),
        *(
            ("CORS_ORIGINS", origin)
            for origin in (
                *(
                    "*",
                    "null",
                    "shop.example",
                    "http://shop.example",
                    "https://shop.example/",
                    "https://shop.example/app",
                ),
                *(
                    "https://shop.example?x",
                    "https://shop.example#x",
                    "https://me@shop.example",
                    "https://*.shop.example",
                ),
                *("https://Shop.example", "HTTPS://shop.example", "https://shop.example:443", "http://localhost:80"),
                *("https://shop.example:65536", "https://shop.example:08443", "https://shöp.example", "file://x"),
                *("https://shop.example https://b.example", "https://shop.example, *", "https://[2001:db8::1]/"),
            )
        ),
        ("RESTORED_AT", "yesterday"),
        ("RESTORED_AT", "2026-11-24T03:00:00"),
        ("PAYMENT_BACKOFF", "-1"),
        ("PAYMENT_BACKOFF_MAX", "-1"),
        ("SIMULATED_UNKNOWN_PRODUCT", "ignore"),
        ("SIMULATED_LATENCY_MS", "-1"),
        ("SIMULATED_FAIL_PERCENT", "101"),
        ("SIMULATED_FAIL_PERCENT", "-1"),
        ("SIMULATED_TIMEOUT_BEFORE_PERCENT", "101"),
        ("SIMULATED_TIMEOUT_AFTER_PERCENT", "101"),
    ],
)
def test_a_value_out_of_range_is_refused(name, value):
    [error] = errors_of(**{name: value})
    assert name in error or (name.startswith("SIMULATED_") and "SIMULATED_" in error)


@pytest.mark.parametrize("field", [f for f in fields(Settings) if f.type is float], ids=lambda f: f.name)
@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_a_time_that_is_no_time_is_refused(field, text):
    assert errors_of(**{env_name(field.name): text})


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "0"), ("PORT", "65535"), ("PAYMENT_THREADS", "1"), ("PAYMENT_THREADS", "512")]
)
def test_the_limits_of_a_range_are_valid(name, value):
    assert getattr(Settings.read({name: value}), name.lower()) == int(value)


def test_percentages_may_not_exceed_a_hundred_together():
    names = ("SIMULATED_FAIL_PERCENT", "SIMULATED_TIMEOUT_BEFORE_PERCENT", "SIMULATED_TIMEOUT_AFTER_PERCENT")
    Settings.read(dict(zip(names, ("40", "30", "30"), strict=True)))
    assert len(errors_of(**dict(zip(names, ("40", "30", "31"), strict=True)))) == 1


def test_a_payment_lease_is_longer_than_the_call_and_two_database_deadlines():
    times = {"PAYMENT_TIMEOUT": "3", "BACKGROUND_DEADLINE": "2"}
    assert Settings.read({**times, "PAYMENT_LEASE": "7.1"}).payment_lease == 7.1
    [error] = errors_of(**times, PAYMENT_LEASE="7")
    assert "PAYMENT_LEASE" in error
    assert "PAYMENT_TIMEOUT" in error


def test_a_longer_call_needs_a_longer_lease():
    [error] = errors_of(PAYMENT_TIMEOUT="25")
    assert "PAYMENT_LEASE" in error


def test_settings_made_in_code_follow_the_same_rules():
    with pytest.raises(BadSettings, match="PORT"):
        Settings(port=70000)


def test_all_malformed_values_are_reported_together():
    errors = errors_of(PORT="http", PAYMENT_THREADS="some", RELAY_LEASE="long")
    assert {line.split()[0] for line in errors} == {"PORT", "PAYMENT_THREADS", "RELAY_LEASE"}


def test_all_values_out_of_range_are_reported_together():
    errors = errors_of(PORT="70000", LOG_FORMAT="xml", LOG_LEVEL="loud", PAYMENT_TRIES="0")
    assert {line.split()[0] for line in errors} == {"PORT", "LOG_FORMAT", "LOG_LEVEL", "PAYMENT_TRIES"}


def test_malformed_values_and_values_out_of_range_are_reported_together():
    errors = errors_of(PORT="http", LOG_FORMAT="xml")
    assert {line.split()[0] for line in errors} == {"PORT", "LOG_FORMAT"}


def test_a_secret_may_be_in_a_file(tmp_path):
    secret = tmp_path / "uri"
    secret.write_text("mongodb://user:hunter2@there\n")
    assert Settings.read({"MONGODB_URI_FILE": str(secret)}).mongodb_uri == "mongodb://user:hunter2@there"


def test_a_value_wins_over_a_file(tmp_path):
    secret = tmp_path / "uri"
    secret.write_text("mongodb://file")
    environ = {"MONGODB_URI_FILE": str(secret), "MONGODB_URI": "mongodb://value"}
    assert Settings.read(environ).mongodb_uri == "mongodb://value"


def test_an_empty_file_counts_as_not_set(tmp_path):
    secret = tmp_path / "uri"
    secret.write_text("\n")
    assert Settings.read({"MONGODB_URI_FILE": str(secret)}) == Settings()


def test_a_file_that_cannot_be_read_is_reported(tmp_path):
    [error] = errors_of(MONGODB_URI_FILE=str(tmp_path / "nowhere"))
    assert error == "MONGODB_URI_FILE cannot be read: No such file or directory"


def test_no_error_contains_a_secret(tmp_path):
    secret = tmp_path / "port"
    secret.write_text("hunter2")
    assert "hunter2" not in "".join(errors_of(PORT_FILE=str(secret), LOG_FORMAT=""))


def test_the_example_names_every_name_there_is_and_no_other():
    named = re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", EXAMPLE.read_text(), re.MULTILINE)
    known = {env_name(field.name) for field in fields(Settings)} | ELSEWHERE
    assert len(named) == len(set(named))
    ours = [name for name in named if not name.startswith(FOREIGN)]
    assert {name for name in ours if name.removesuffix("_FILE") not in known} == set()
    assert known - set(named) == set()


def test_the_example_shows_the_defaults():
    shown = dict(re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    assert Settings.read(shown) == Settings()


@pytest.mark.parametrize("missing", IDENTITY)
def test_the_settings_of_authentication_belong_together(missing):
    [error] = errors_of(**{name: value for name, value in IDENTITY.items() if name != missing})
    assert "belong together" in error


@pytest.mark.parametrize("algorithm", ["none", "None", "HS1", "RS", "ES256K", "hs256", "dir"])
def test_an_algorithm_that_is_not_sound_is_refused(algorithm):
    [error] = errors_of(**{**IDENTITY, "AUTH_JWT_ALGORITHM": algorithm})
    assert "AUTH_JWT_ALGORITHM" in error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("RATE_LIMIT", text) for text in ("many", "0/second", "10", "10/fortnight", "10/second,20/minute", "-1/day")),
        *(("FORWARDED_ALLOW_IPS", text) for text in ("proxy", "10.0.0.1/8", "10.0.0.1;10.0.0.2", "*,10.0.0.1")),
        ("AUTH_FAILURE_LIMIT", "few"),
        ("AUTH_JWT_LEEWAY", "-1"),
        ("AUTH_JWT_LEEWAY", "61"),
        ("METRICS_PUBLIC", "yes"),
        ("ALLOW_UNSAFE", "everything"),
        ("ALLOW_UNSAFE", "no_identity,all"),
    ],
)
def test_a_malformed_value_is_refused(name, value):
    [error] = errors_of(**{name: value})
    assert name in error


@pytest.mark.parametrize(
    ("named", "trusted"),
    [
        ("", ""),
        ("*", "*"),
        ("10.0.0.0/8", "10.0.0.0/8,::ffff:10.0.0.0/104"),
        ("192.0.2.7, 2001:db8::/32", "192.0.2.7/32,2001:db8::/32,::ffff:192.0.2.7/128"),
    ],
)
def test_a_proxy_is_trusted_in_both_forms_that_its_address_may_have(named, trusted):
    assert Settings(forwarded_allow_ips=named).trusted_proxies == trusted


PUBLIC = ["0.0.0.0", "::", "192.0.2.7", "10.0.0.1", "orders.example", "2001:db8::1", "[::]", "[2001:db8::1]"]
LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"]


@pytest.mark.parametrize("name", ["BIND", "PUBLISHED_ON"])
@pytest.mark.parametrize("address", PUBLIC)
def test_other_machines_need_authentication(name, address):
    [error] = errors_of(**{name: address})
    assert error.count("\n") == 0
    assert address in error
    assert "ALLOW_UNSAFE=no_identity" in error
    assert Settings.read({name: address, "ALLOW_UNSAFE": "no_identity"}).allows("no_identity")
    assert Settings.read({name: address, **IDENTITY}).identity


@pytest.mark.parametrize("address", LOOPBACK)
def test_this_machine_needs_no_authentication(address):
    assert not Settings.read({"BIND": address}).identity
    assert not Settings.read({"BIND": "0.0.0.0", "PUBLISHED_ON": address}).identity


@pytest.mark.parametrize(
    "userinfo",
    ["app:password", "app:PassWord", "app:admin", "orderflow:orderflow", "app:p%61ssword", "app:app", "app:"],
)
def test_a_well_known_password_is_refused(userinfo):
    uri = f"mongodb://{userinfo}@db.example:27017/?replicaSet=rs0"
    [error] = errors_of(MONGODB_URI=uri)
    assert "ALLOW_UNSAFE=default_password" in error
    assert userinfo not in error
    assert Settings.read({"MONGODB_URI": uri, "ALLOW_UNSAFE": "default_password"}).mongodb_uri == uri


@pytest.mark.parametrize("uri", ["mongodb://db.example", "mongodb://app:7f3a9c@db.example", "mongodb://app@db.example"])
def test_other_passwords_and_none_are_accepted(uri):
    assert Settings.read({"MONGODB_URI": uri}).mongodb_uri == uri


def test_the_representation_of_settings_contains_no_secret():
    secret = {**IDENTITY, "MONGODB_URI": "mongodb://app:7f3a9c-canary@db.example", "AUTH_JWT_KEY": "canary" * 8}
    shown = repr(Settings.read(secret))
    assert "canary" not in shown
    assert "jwks" not in shown


# --- development ---


def test_a_laptop_may_send_webhooks_to_itself():
    assert Settings.read({}).is_development
    assert Settings.read({"BIND": "::1", "PORT": "7311"}).webhook_http
    other = {"MONGODB_URI": "mongodb://127.0.0.1/?replicaSet=rs0", "ALLOW_UNSAFE": "webhook_http"}
    assert (Settings.read(other).is_development, Settings.read(other).webhook_http) == (False, True)


@pytest.mark.parametrize(
    "environ",
    [
        {"MONGODB_URI": "mongodb://127.0.0.1/?replicaSet=rs0"},
        {"BUS_URL": "amqp://localhost"},
        {"BUS_URL": "amqp://localhost", "MODULES": "webhooks"},
        IDENTITY,
        {"PAYMENT_PROVIDER": "stripe", "STRIPE_SECRET_KEY": "sk_test_1"},
        {"BIND": "0.0.0.0", "ALLOW_UNSAFE": "no_identity"},
        {"ALLOW_UNSAFE": "no_identity"},
        {"BIND": "0.0.0.0", "PUBLISHED_ON": "127.0.0.1"},
        {"PUBLISHED_ON": "127.0.0.1"},
        {"FORWARDED_ALLOW_IPS": "127.0.0.1"},
        {"ALLOWED_HOSTS": "orders.example"},
    ],
    ids=str,
)
def test_no_other_server_sends_webhooks_to_itself_without_being_told(environ):
    settings = Settings.read(environ)
    assert (settings.is_development, settings.webhook_http) == (False, False)
