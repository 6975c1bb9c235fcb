"""The settings of Stripe, and that its library is imported only where they name it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import BadSettings, Settings
from app.payments import providers
from app.payments.providers.stripe.provider import StripeProvider

ROOT = Path(__file__).parents[3]
TEST_KEY, LIVE_KEY = "sk_test_123", "sk_live_123"
STRIPE = {"payment_provider": "stripe", "stripe_secret_key": TEST_KEY}
PUBLIC = {"bind": "0.0.0.0", "allow_unsafe": "no_identity"}


def error_of(**changes: object) -> str:
    with pytest.raises(BadSettings) as caught:
        Settings(**{**STRIPE, **changes})
    return str(caught.value)


def test_the_factory_makes_stripe():
    provider = providers.make(Settings(**STRIPE), None)  # no connection is made before the first call
    assert isinstance(provider, StripeProvider)
    assert provider.capabilities.name == "stripe"
    assert (provider.capabilities.key_lifetime, provider.capabilities.opens) == (86_400.0, True)
    assert (provider.capabilities.captures_later, provider.capabilities.notifies) == (True, True)


def test_an_unknown_provider_is_refused_with_the_names_of_all():
    with pytest.raises(BadSettings, match="'paypal': use simulated or stripe"):
        providers.make(Settings(payment_provider="paypal"), None)


@pytest.mark.parametrize("key", ["", "pk_test_123", "pk_live_123", "whsec_123", "sk_123", "sk_test_", "sk_test_1 2"])
def test_a_key_that_is_none_is_refused(key):
    assert "STRIPE_SECRET_KEY_FILE" in error_of(stripe_secret_key=key)


def test_a_key_is_not_part_of_the_sentence_about_it():
    assert "hunter2" not in error_of(stripe_secret_key="pk_live_hunter2")


@pytest.mark.parametrize("key", [TEST_KEY, LIVE_KEY, "rk_test_123", "rk_live_123"])
def test_secret_and_restricted_keys_are_accepted(key):
    assert Settings(**{**STRIPE, "stripe_secret_key": key}).stripe_secret_key == key


@pytest.mark.parametrize(
    ("text", "secrets"),
    [("", ()), ("whsec_1", ("whsec_1",)), ("whsec_1, whsec_2", ("whsec_1", "whsec_2"))],
)
def test_one_or_two_secrets_of_notifications(text, secrets):
    assert Settings(**STRIPE, stripe_webhook_secret=text).stripe_webhook_secrets == secrets


@pytest.mark.parametrize("text", ["sk_test_1", "whsec_1,whsec_2,whsec_3", "whsec_1,hunter2"])
def test_other_secrets_of_notifications_are_refused(text):
    error = error_of(stripe_webhook_secret=text)
    assert "STRIPE_WEBHOOK_SECRET" in error
    assert "hunter2" not in error


@pytest.mark.parametrize("url", ["https://proxy.example", "http://127.0.0.1:8420", "http://localhost:8420/"])
def test_stripe_is_reached_in_the_clear_on_this_machine_only(url):
    assert Settings(**STRIPE, stripe_api_base=url).stripe_api_base == url


@pytest.mark.parametrize(
    "url", ["http://proxy.example", "https://", "https://proxy.example/v1", "ftp://localhost", "proxy"]
)
def test_another_address_of_stripe_is_refused(url):
    assert "STRIPE_API_BASE" in error_of(stripe_api_base=url)


def test_keys_are_not_sent_for_longer_than_stripe_remembers_them():
    assert "PROVIDER_KEY_HOURS" in error_of(provider_key_hours=25)


def test_keys_are_not_shown():
    shown = repr(Settings(**STRIPE, stripe_webhook_secret="whsec_1"))
    assert TEST_KEY not in shown
    assert "whsec_1" not in shown


def test_processes_without_payments_need_no_key():
    Settings(payment_provider="stripe", modules="gateway,orders", bus_url="amqp://broker")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stripe_secret_key": LIVE_KEY}, "orders take real money"),
        ({"stripe_secret_key": LIVE_KEY.replace("sk", "rk")}, "orders take real money"),
        ({"stripe_secret_key": LIVE_KEY, "published_on": "127.0.0.1", "bind": "0.0.0.0"}, "orders take real money"),
        (PUBLIC, "no order takes any money"),
        ({}, ""),
        ({"stripe_secret_key": LIVE_KEY, **PUBLIC}, ""),
        ({"payment_provider": "simulated", "stripe_secret_key": LIVE_KEY}, ""),
    ],
)
def test_a_key_that_does_not_suit_the_address_is_a_sentence(changes, words):
    warnings = Settings(**{**STRIPE, "stripe_webhook_secret": "whsec_1", **changes}).stripe_warnings
    assert [words in warning for warning in warnings] == ([True] if words else [])


def test_notifications_that_nothing_verifies_are_a_sentence():
    [warning] = Settings(**STRIPE).stripe_warnings
    assert "STRIPE_WEBHOOK_SECRET" in warning
    # A process without payments does not know the secrets.
    assert Settings(payment_provider="stripe", modules="gateway", bus_url="amqp://broker").stripe_warnings == []


@pytest.mark.extended
def test_the_server_logs_these_sentences_when_it_starts(tmp_path):
    environ = {"PATH": os.environ["PATH"], "PAYMENT_PROVIDER": "stripe", "STRIPE_SECRET_KEY": LIVE_KEY}
    # The database is never reached: the port is taken before.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ |= {
            "PORT": str(taken.getsockname()[1]),
            "MONGODB_URI": "mongodb://127.0.0.1:9",
            "TMPDIR": str(tmp_path),
        }
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert "orders take real money" in done.stderr
    assert "STRIPE_WEBHOOK_SECRET is not set" in done.stderr
    assert LIVE_KEY not in done.stderr


def output_of(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_nothing_of_stripe_is_imported_where_another_provider_is_used():
    make = "from app.main import create_app; create_app(); import sys; print('stripe' in sys.modules)"
    assert output_of(make) == "False"


def test_a_library_that_is_missing_is_a_sentence():
    program = """
import sys
sys.modules["stripe"] = None
from app.config import BadSettings, Settings
from app.payments import providers
try:
    providers.make(Settings(payment_provider="stripe", stripe_secret_key="sk_test_1"), None)
except BadSettings as exc:
    print(exc)
"""
    assert (
        output_of(program) == "PAYMENT_PROVIDER is stripe, and its library is missing: pip install 'orderflow[stripe]'"
    )
