"""Assertions of the contract explain themselves as those of test files do; what stands in for Stripe."""

import os
from collections.abc import Iterator
from contextlib import closing

import pytest
import stripe

from app.payments.providers.stripe.provider import StripeProvider, http_client
from tests.standins.stripe import server
from tests.standins.stripe.server import StripeStandIn

pytest.register_assert_rewrite("tests.payments.providers.contract")

from tests.payments.providers.stripe_contract import TIMEOUT, make_provider  # noqa: E402 - after the registration


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StripeStandIn]:
    """What stands in for Stripe; each worker has its own."""
    if not server.installed():
        if os.environ.get("CI"):
            pytest.fail(server.MISSING)
        pytest.skip(server.MISSING)
    with StripeStandIn(tmp_path_factory.mktemp("stripe")) as running:
        yield running


@pytest.fixture(scope="session")
def provider(standin: StripeStandIn) -> Iterator[StripeProvider]:
    """The provider Stripe at the stand-in."""
    with make_provider(server.KEY, standin.url) as made:
        yield made


@pytest.fixture(scope="session")
def client(standin: StripeStandIn) -> Iterator[stripe.StripeClient]:
    """Stripe's own client at the stand-in."""
    with closing(http_client(TIMEOUT)) as http:
        yield stripe.StripeClient(server.KEY, base_addresses={"api": standin.url}, http_client=http)
