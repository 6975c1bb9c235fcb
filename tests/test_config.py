"""Settings: defaults that run, the environment's names, and wrong values told of all at once."""

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from app.config import BadSettings, Settings, env_name

EXAMPLE = Path(__file__).parent.parent / ".env.example"
# Read by the server's own configuration or by the embedded database, not by Settings.
ELSEWHERE = {"MONGOD", "WEB_CONCURRENCY", "WORKER_CLASS"}

# Where adding one, or a hundredth, to the default would not do.
OTHER = {
    "bind": "0.0.0.0",
    "mongodb_uri": "mongodb://elsewhere/?replicaSet=rs0",
    "log_format": "console",
    "log_level": "debug",
    "simulated_unknown_product": "capture",
}
every_setting = pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)


def other(field):
    """A usable value that is not the default."""
    if field.name in OTHER:
        return OTHER[field.name]
    step = {int: lambda default: default + 1, float: lambda default: default * 1.01}
    return step.get(field.type, lambda default: field.type("elsewhere"))(field.default)


def complaints(**environ: str) -> list[str]:
    """What reading these settings complains of, a sentence each."""
    with pytest.raises(BadSettings) as caught:
        Settings.read(environ)
    return str(caught.value).splitlines()


def test_an_empty_environment_gives_the_defaults():
    assert Settings.read({}) == Settings()


def test_the_defaults_suit_a_laptop():
    settings = Settings()
    assert (settings.port, settings.bind, settings.mongodb_uri) == (7000, "127.0.0.1", None)
    assert settings.data == Path(".orderflow")
    assert settings.payment_provider == "simulated"


@every_setting
def test_every_setting_is_read_from_the_environment(field):
    value = other(field)
    assert value != field.default
    settings = Settings.read({env_name(field.name): str(value)})
    assert getattr(settings, field.name) == value
    assert type(getattr(settings, field.name)) is type(value)


@every_setting
def test_an_environment_name_sets_nothing_else(field):
    settings = Settings.read({env_name(field.name): str(other(field))})
    changed = {each.name for each in fields(Settings) if getattr(settings, each.name) != each.default}
    assert changed == {field.name}


@every_setting
@pytest.mark.parametrize("empty", ["", "   "])
def test_an_empty_value_counts_as_not_set(field, empty):
    assert Settings.read({env_name(field.name): empty}) == Settings()


def test_space_around_a_value_is_not_part_of_it():
    settings = Settings.read({"PORT": " 7311\n", "MONGODB_URI": " mongodb://there "})
    assert (settings.port, settings.mongodb_uri) == (7311, "mongodb://there")


def test_every_environment_name_is_said_once():
    names = [env_name(field.name) for field in fields(Settings)]
    assert len(set(names)) == len(names)
    assert {"PORT", "BIND", "MONGODB_URI", "MONGODB_DATABASE", "ORDERFLOW_DATA", "LOG_FORMAT"} <= set(names)


def test_other_names_in_the_environment_mean_nothing():
    assert Settings.read({"DATA": "/elsewhere", "DATABASE": "other", "port": "1", "HOME": "/root"}) == Settings()


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1


@pytest.mark.parametrize("field", [f for f in fields(Settings) if f.type in (int, float)], ids=lambda f: f.name)
@pytest.mark.parametrize("text", ["many", "1,5", "0x10", "--1"])
def test_a_malformed_number_is_refused_by_name(field, text):
    [complaint] = complaints(**{env_name(field.name): text})
    assert complaint == f"{env_name(field.name)} must be a number"


def test_a_whole_number_has_no_fraction():
    assert complaints(PORT="70.5") == ["PORT must be a number"]


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
    [complaint] = complaints(**{name: value})
    assert name in complaint or (name.startswith("SIMULATED_") and "SIMULATED_" in complaint)


@pytest.mark.parametrize("field", [f for f in fields(Settings) if f.type is float], ids=lambda f: f.name)
@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_a_time_that_is_no_time_is_refused(field, text):
    assert complaints(**{env_name(field.name): text})


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "0"), ("PORT", "65535"), ("PAYMENT_THREADS", "1"), ("PAYMENT_THREADS", "512")]
)
def test_the_ends_of_a_range_belong_to_it(name, value):
    assert getattr(Settings.read({name: value}), name.lower()) == int(value)


def test_percentages_may_not_exceed_a_hundred_together():
    names = ("SIMULATED_FAIL_PERCENT", "SIMULATED_TIMEOUT_BEFORE_PERCENT", "SIMULATED_TIMEOUT_AFTER_PERCENT")
    Settings.read(dict(zip(names, ("40", "30", "30"), strict=True)))
    assert len(complaints(**dict(zip(names, ("40", "30", "31"), strict=True)))) == 1


def test_a_payment_lease_outlasts_the_call_and_two_database_deadlines():
    times = {"PAYMENT_TIMEOUT": "3", "BACKGROUND_DEADLINE": "2"}
    assert Settings.read({**times, "PAYMENT_LEASE": "7.1"}).payment_lease == 7.1
    [complaint] = complaints(**times, PAYMENT_LEASE="7")
    assert "PAYMENT_LEASE" in complaint
    assert "PAYMENT_TIMEOUT" in complaint


def test_a_longer_call_needs_a_longer_lease():
    [complaint] = complaints(PAYMENT_TIMEOUT="25")
    assert "PAYMENT_LEASE" in complaint


def test_settings_made_in_code_follow_the_same_rules():
    with pytest.raises(BadSettings, match="PORT"):
        Settings(port=70000)


def test_all_malformed_values_are_told_of_together():
    told = complaints(PORT="http", PAYMENT_THREADS="some", RELAY_LEASE="long")
    assert {line.split()[0] for line in told} == {"PORT", "PAYMENT_THREADS", "RELAY_LEASE"}


def test_all_values_out_of_range_are_told_of_together():
    told = complaints(PORT="70000", LOG_FORMAT="xml", LOG_LEVEL="loud", PAYMENT_TRIES="0")
    assert {line.split()[0] for line in told} == {"PORT", "LOG_FORMAT", "LOG_LEVEL", "PAYMENT_TRIES"}


def test_malformed_values_and_values_out_of_range_are_told_of_together():
    told = complaints(PORT="http", LOG_FORMAT="xml")
    assert {line.split()[0] for line in told} == {"PORT", "LOG_FORMAT"}


def test_a_secret_may_lie_in_a_file(tmp_path):
    secret = tmp_path / "uri"
    secret.write_text("mongodb://user:secret@there\n")
    assert Settings.read({"MONGODB_URI_FILE": str(secret)}).mongodb_uri == "mongodb://user:secret@there"


def test_a_value_wins_over_a_file(tmp_path):
    secret = tmp_path / "uri"
    secret.write_text("mongodb://file")
    environ = {"MONGODB_URI_FILE": str(secret), "MONGODB_URI": "mongodb://value"}
    assert Settings.read(environ).mongodb_uri == "mongodb://value"


def test_an_empty_file_counts_as_not_set(tmp_path):
    secret = tmp_path / "uri"
    secret.write_text("\n")
    assert Settings.read({"MONGODB_URI_FILE": str(secret)}) == Settings()


def test_a_file_that_cannot_be_read_is_told_of(tmp_path):
    [complaint] = complaints(MONGODB_URI_FILE=str(tmp_path / "nowhere"))
    assert complaint == "MONGODB_URI_FILE cannot be read: No such file or directory"


def test_no_complaint_tells_a_secret(tmp_path):
    secret = tmp_path / "port"
    secret.write_text("hunter2")
    assert "hunter2" not in "".join(complaints(PORT_FILE=str(secret), LOG_FORMAT=""))


def test_the_example_names_every_name_there_is_and_no_other():
    named = re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", EXAMPLE.read_text(), re.MULTILINE)
    known = {env_name(field.name) for field in fields(Settings)} | ELSEWHERE
    assert len(named) == len(set(named))
    assert {name for name in named if name.removesuffix("_FILE") not in known} == set()
    assert known - set(named) == set()


def test_the_example_shows_the_defaults():
    shown = dict(re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    assert Settings.read(shown) == Settings()
