"""API7:2023 Server side request forgery: nothing that a client sends makes the server call anybody."""

import sys

import pytest

from tests.security import surface
from tests.security.surface import BODIES, ROUTES, WRITING

URLS = [
    *("http://127.0.0.1:9/", "https://evil.example/x", "http://169.254.169.254/latest/meta-data/", "http://[::1]:9/"),
    *(
        "file:///etc/passwd",
        "gopher://127.0.0.1:9/_x",
        "ftp://evil.example/",
        "dict://127.0.0.1:11211/stat",
        "//evil.example",
    ),
    *("ldap://evil.example/x", "${jndi:ldap://evil.example/x}", "mongodb://evil.example:27017/", "http://2130706433/"),
    *(
        "http://evil.example@127.0.0.1/",
        "http://0x7f.1/",
        "jar:http://evil.example!/",
        "\\\\evil.example\\share",
        "unix:/x",
    ),
]
HEADERS = (
    *(
        "Host",
        "X-Forwarded-Host",
        "X-Forwarded-For",
        "Forwarded",
        "Referer",
        "Origin",
        "Location",
        "Link",
        "Destination",
    ),
    *("X-Callback-URL", "X-Original-URL", "X-Rewrite-URL", "Webhook", "True-Client-IP", "Via", "From", "traceparent"),
)
CALLED = []
WATCHING = []


def watch(name, arguments):
    if WATCHING and name in (
        "socket.connect",
        "socket.getaddrinfo",
        "socket.sendto",
        "urllib.Request",
        "subprocess.Popen",
    ):
        CALLED.append((name, str(arguments[1:] if name.startswith("socket.connect") else arguments)))


sys.addaudithook(watch)


@pytest.fixture
def calls(mongodb_uri):
    """Whoever is called meanwhile, the database left out."""
    port = mongodb_uri.split("?")[0].rstrip("/").rsplit(":", 1)[1]
    CALLED.clear()
    WATCHING.append(True)
    yield lambda: [call for call in CALLED if port not in call[1]]
    WATCHING.clear()


@pytest.mark.parametrize("url", URLS)
def test_an_address_that_a_client_names_is_not_called(ada, fort, issuer, calls, url):
    for method, rule in WRITING:
        for member in [*BODIES[method, rule], "url", "callback", "webhook", "image"]:
            ada.open(method, surface.address(rule), **surface.body(method, rule, **{member: url}))
    for method, rule in ROUTES:
        mark = "&" if "?" in surface.address(rule) else "?"
        query = f"{mark}url={url}&callback={url}&status={url}&cursor={url}"
        headers = {**dict.fromkeys(HEADERS, url), "Authorization": f"Bearer {issuer.token()}"}
        address = surface.address(rule) + query
        fort.test_client().open(address, method=method, headers=headers, buffered=True, **surface.body(method, rule))
    assert calls() == []


def test_a_call_would_be_seen(calls):
    import socket

    with socket.socket() as probe:
        probe.connect_ex(("127.0.0.1", 9))
    assert len(calls()) == 1


def test_no_answer_sends_a_client_to_an_address_of_the_clients_choice(ada, fort, issuer):
    headers = {"Authorization": f"Bearer {issuer.token()}", "Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    answer = fort.test_client().post("/orders", json=BODIES["POST", "/orders"], headers=headers)
    assert answer.headers["Location"].startswith("/orders/one/")
    assert "evil" not in answer.text + str(answer.headers)
