"""Routes are found as Flask finds them."""

import pytest
from flask import Flask

from app.gateway.http import url_adapters

HOSTS = ["localhost", "localhost:7000", "EXAMPLE.org", "bücher.example", "[::1]:80", "a b", ""]


@pytest.fixture
def adapters():
    """Flask's own function and the one under test."""
    app = Flask("app")
    app.add_url_rule("/orders/<name>", "order", view_func=lambda name: name)
    flasks_own = app.create_url_adapter
    url_adapters.install(app)
    return app, flasks_own, app.create_url_adapter


def adapter_of(app, make, **environ):
    request = app.request_class({**app.test_request_context("/orders/a?b=1").request.environ, **environ})
    adapter = make(request)
    return {**vars(adapter), "host": request.host, "matched": adapter.match()}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", HOSTS)
def test_hosts_are_understood_as_by_flask(adapters, host, scheme):
    app, flasks_own, ours = adapters
    environ = {"HTTP_HOST": host.encode().decode("latin1"), "wsgi.url_scheme": scheme}
    expected = adapter_of(app, flasks_own, **environ)
    assert [adapter_of(app, ours, **environ) for _ in range(2)] == [expected, expected]


@pytest.mark.parametrize(
    "environ",
    [
        {"PATH_INFO": "/orders/b\xc3\xbccher"},
        {"PATH_INFO": "/orders/\xff"},
        {"QUERY_STRING": "a=\xc3\xbc"},
        {"SCRIPT_NAME": "/below"},
        {"HTTP_CONNECTION": "close", "HTTP_UPGRADE": "h2c"},
    ],
)
def test_texts_are_decoded_as_by_flask(adapters, environ):
    app, flasks_own, ours = adapters
    assert adapter_of(app, ours, **environ) == adapter_of(app, flasks_own, **environ)


def test_two_hosts_and_methods_do_not_share_an_adapter(adapters):
    app, _, ours = adapters
    first, second = (adapter_of(app, ours, HTTP_HOST=host) for host in ("one.example", "two.example"))
    assert (first["server_name"], second["server_name"]) == ("one.example", "two.example")


def test_outside_of_a_request_there_is_no_adapter(adapters):
    assert adapters[2](None) is None
