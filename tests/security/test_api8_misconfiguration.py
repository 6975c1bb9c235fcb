"""API8:2023 Security misconfiguration: headers on every answer, silence about the inside, secrets nowhere, no unsafe start."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from uuid import uuid4

import jwt
import pytest

from app.gateway import HEADERS
from tests.security import surface
from tests.security.conftest import AUDIENCE, INSIDES, ISSUER
from tests.security.surface import ROUTES, named
from tools.cluster.processes import free_port

ROOT = Path(__file__).parents[2]
# Each a thing that must not be found in any log.
KEY, WORD, PASSWORD = "canary-key-" + "k" * 40, "canary-word", "canary-password"
LINES = ['x\r\n{"event": "forged"}', "x\n2026-01-01 [error] forged", "x\x1b[2J", "x\u2028forged", "x\0y", "x\x85forged"]
FILES = ("/api/assets", "/console/<", "/console/orders", "/console/desk", "/console/webhooks", "/console/deliveries")
every_route = pytest.mark.parametrize(("method", "rule"), ROUTES, ids=named(ROUTES))
TOLD = {"Content-Type", "Content-Length", "X-Request-Id", *HEADERS}
MAY_TELL = TOLD | {
    *("Location", "ETag", "Allow", "WWW-Authenticate", "Retry-After", "Vary", "Link", "Idempotent-Replayed"),
    *(
        "Content-Disposition",
        "Last-Modified",
        "Date",
        "X-Accel-Buffering",
        "Preference-Applied",
        "Accept-Ranges",
        "Expires",
    ),
}


def answers(fort, issuer, method, rule):
    """What a route answers, good and bad: to its user, to an operator, to a stranger, to nonsense, to other methods."""
    for token in (issuer.token(), issuer.token("olga", "orders:admin"), "", "bad"):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = fort.test_client()
        sent = surface.body(method, rule)
        yield client.open(surface.address(rule), method=method, headers=headers, buffered=True, **sent)
        yield client.open(surface.address(rule), method="BREW", headers=headers, buffered=True)
        yield client.open(surface.address(rule) + "/x\x01", method=method, headers=headers, buffered=True)
        if sent:
            json_type = {"content_type": "application/json"}
            for data in (b"{", b"x" * 70_000, b"[]", b"{}"):
                yield client.open(surface.address(rule), method=method, headers=headers, data=data, **json_type)
            yield client.open(
                surface.address(rule), method=method, headers=headers, data=b"{}", content_type="text/xml"
            )


@every_route
def test_every_answer_has_the_headers_that_protect(fort, issuer, method, rule):
    for answer in answers(fort, issuer, method, rule):
        for name, value in HEADERS.items():
            if name == "Content-Security-Policy":
                assert "default-src 'none'" in answer.headers[name]
                assert "frame-ancestors 'none'" in answer.headers[name]
            elif name == "Cache-Control" and (rule == "/" or rule.startswith(FILES)):
                assert answer.headers[name]
            else:
                assert answer.headers[name] == value
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])


@every_route
def test_no_response_reveals_internals(fort, issuer, method, rule):
    for answer in answers(fort, issuer, method, rule):
        assert set(answer.headers.keys()) <= MAY_TELL
        assert answer.status_code < 500
        if answer.status_code >= 400:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert not INSIDES.search(answer.text), answer.text


@every_route
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:7000"])
def test_no_other_site_may_read_along(fort, issuer, method, rule, origin):
    headers = {
        "Authorization": f"Bearer {issuer.token()}",
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization",
    }
    for verb in (method, "OPTIONS"):
        sent = surface.body(method, rule) if verb == method else {}
        answer = fort.test_client().open(surface.address(rule), method=verb, headers=headers, buffered=True, **sent)
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


def test_hsts_is_sent_behind_tls(fort):
    plain, encrypted = (fort.test_client().get("/healthz", base_url=f"{scheme}://x") for scheme in ("http", "https"))
    assert "Strict-Transport-Security" not in plain.headers
    assert int(re.search(r"max-age=(\d+)", encrypted.headers["Strict-Transport-Security"])[1]) >= 31_536_000


@pytest.mark.parametrize("text", LINES, ids=ascii)
def test_a_request_id_is_sane_or_made(fort, text):
    answer = fort.test_client().get("/healthz", environ_overrides={"HTTP_X_REQUEST_ID": text})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])


# --- the server as it is run: its log ---


@pytest.fixture(scope="module")
def log(mongodb_uri, mongo, tmp_path_factory):
    """The log at its most detailed level while the server is used and attacked; secrets come from files."""
    name, folder = f"test_{uuid4().hex}", tmp_path_factory.mktemp("secrets")
    (folder / "key").write_text(KEY)
    (folder / "uri").write_text(f"{mongodb_uri}&appName={PASSWORD}")
    port = free_port()
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AUTH_")},
        "MONGODB_URI_FILE": str(folder / "uri"),
        "MONGODB_DATABASE": name,
        "ORDERFLOW_DATA": str(folder),
        "PORT": str(port),
        "WEB_CONCURRENCY": "1",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "json",
        "AUTH_JWT_ALGORITHM": "HS256",
        "AUTH_JWT_KEY_FILE": str(folder / "key"),
        "AUTH_JWT_ISSUER": ISSUER,
        "AUTH_JWT_AUDIENCE": AUDIENCE,
        "RATE_LIMIT": "10000/second",
        "REQUEST_DEADLINE": "10",  # A busy machine may make a command slow.
        "GUNICORN_CMD_ARGS": "--access-logfile=-",
    }
    with (folder / "log").open("w+") as told:
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
        server = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=told, stderr=told)
        use(port)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        told.seek(0)
        yield told.read()
    mongo.drop_database(name)


def use(port):
    """Everything that a client does and should not do, canaries in all of it."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, "scope": "orders:admin"}
    good = jwt.encode(claims, KEY, algorithm="HS256")
    wait_until_ready(port)
    headers = {"Authorization": f"Bearer {good}", "Content-Type": "application/json", "Cookie": WORD}
    order = json.dumps({**surface.BODIES["POST", "/orders"], "productName": WORD})
    assert call(port, "POST", "/orders", order, {**headers, "Idempotency-Key": WORD})[0] == 201
    for authorization in (f"Bearer {WORD}", f"Basic {WORD}", f"Bearer {good[:-3]}aaa", f"Bearer {good}, {WORD}"):
        assert call(port, "POST", "/orders", order, {**headers, "Authorization": authorization})[0] in {400, 401}
    for text in LINES:
        body = json.dumps({**surface.BODIES["PUT", "/orders"], "orderId": text, "orderStatus": text})
        call(port, "PUT", "/orders", body, headers)
        call(port, "POST", "/orders", json.dumps({**json.loads(order), "userId": text}), headers)
    for data in (f'{{"{WORD}', f'["{WORD}"]', WORD):
        call(port, "POST", "/orders", data, headers)
    for raw in (f"GET /{WORD} HTTP/9\r\n\r\n", f"{WORD}\r\n\r\n", f"GET / HTTP/1.1\r\n{WORD}\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), 60) as opened:
            opened.sendall(raw.encode())
            opened.recv(4096)


def wait_until_ready(port):
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            if call(port, "GET", "/readyz", "", {})[0] == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("never ready")


def call(port, method, address, body, headers):
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, address, body.encode(), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.extended
@pytest.mark.parametrize("secret", [KEY, PASSWORD, WORD, "eyJ", "Bearer"])
def test_no_secret_is_in_the_log(log, secret):
    assert secret not in log


def test_no_line_of_the_log_is_a_clients(log):
    own = re.compile(r"\{.*\}|\[\d{4}-\d\d-\d\d .*|127\.0\.0\.1 - - \[.*|.*Warning: .*|  monkey\.patch_all\(\)")
    assert "order stored" in log
    strange = [line for line in log.splitlines() if line and not own.fullmatch(line)]
    assert strange == []
    assert "forged" not in [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]
    assert "\x1b" not in log


# --- what does not start ---

GOOD = {
    "AUTH_JWT_ALGORITHM": "HS256",
    "AUTH_JWT_KEY": KEY,
    "AUTH_JWT_ISSUER": ISSUER,
    "AUTH_JWT_AUDIENCE": AUDIENCE,
}
UNSAFE = {
    "nobody asked, on all addresses": ({"BIND": "0.0.0.0"}, "ALLOW_UNSAFE=no_identity"),
    "nobody asked, published": ({"PUBLISHED_ON": "192.0.2.7"}, "ALLOW_UNSAFE=no_identity"),
    "a well-known password": ({"MONGODB_URI": "mongodb://a:admin@x"}, "ALLOW_UNSAFE=default_password"),
    "a short secret": ({**GOOD, "AUTH_JWT_KEY": "5h0rt"}, "ALLOW_UNSAFE=short_jwt_key"),
    "no algorithm": ({**GOOD, "AUTH_JWT_ALGORITHM": "none"}, "AUTH_JWT_ALGORITHM"),
    "half of what identity needs": ({"AUTH_JWT_ALGORITHM": "HS256"}, "AUTH_JWT_"),
    "a secret for a public key": ({**GOOD, "AUTH_JWT_ALGORITHM": "RS256"}, "AUTH_JWT_KEY"),
    "another worker": ({"WORKER_CLASS": "sync"}, "WORKER_CLASS"),
    "nobody asked, on one address that others reach": ({"BIND": "192.0.2.7"}, "ALLOW_UNSAFE=no_identity"),
    "nobody asked, on a name that others reach": ({"BIND": "orders.example"}, "ALLOW_UNSAFE=no_identity"),
    "nobody asked, on all addresses of IPv6": ({"BIND": "::"}, "ALLOW_UNSAFE=no_identity"),
    "nobody asked, published on all addresses": ({"PUBLISHED_ON": "0.0.0.0"}, "ALLOW_UNSAFE=no_identity"),
    "what may be unsafe is another thing": ({"BIND": "0.0.0.0", "ALLOW_UNSAFE": "short_jwt_key"}, "no_identity"),
    "all that is unsafe at once": ({"ALLOW_UNSAFE": "everything"}, "ALLOW_UNSAFE"),
    "the user's name for a password": ({"MONGODB_URI": "mongodb://orders:orders@x"}, "default_password"),
    "an empty password": ({"MONGODB_URI": "mongodb://orders:@x"}, "default_password"),
    "a well-known password, percent-encoded": ({"MONGODB_URI": "mongodb://a:p%61ssword@x"}, "default_password"),
    "the broker's guest, from elsewhere": ({"BUS_URL": "amqp://guest:guest@rabbit"}, "default_password"),
    "an algorithm of another's": ({**GOOD, "AUTH_JWT_ALGORITHM": "ES256K"}, "AUTH_JWT_ALGORITHM"),
    "an algorithm in small letters": ({**GOOD, "AUTH_JWT_ALGORITHM": "hs256"}, "AUTH_JWT_ALGORITHM"),
    "no issuer": ({**GOOD, "AUTH_JWT_ISSUER": ""}, "AUTH_JWT_"),
    "no audience": ({**GOOD, "AUTH_JWT_AUDIENCE": ""}, "AUTH_JWT_"),
    "no key": ({name: value for name, value in GOOD.items() if name != "AUTH_JWT_KEY"}, "AUTH_JWT_"),
    "a key and a set of keys": ({**GOOD, "AUTH_JWT_JWKS": '{"keys": []}'}, "AUTH_JWT_JWKS"),
    "a secret that is not there": ({"CURSOR_KEY_FILE": "/nowhere"}, "CURSOR_KEY_FILE"),
    "an issuer's clock that is far off": ({**GOOD, "AUTH_JWT_LEEWAY": "3600"}, "AUTH_JWT_LEEWAY"),
    "a key for cursors that can be guessed": ({"CURSOR_KEY": "5h0rt"}, "CURSOR_KEY"),
    "a limit that is none": ({"RATE_LIMIT": "many"}, "RATE_LIMIT"),
    "a limit of failures that is none": ({"AUTH_FAILURE_LIMIT": "0/minute"}, "AUTH_FAILURE_LIMIT"),
    # gunicorn reads this one, too, and first.
    "a proxy by name": ({"FORWARDED_ALLOW_IPS": "proxy"}, "'proxy'"),
    "a network that is none": ({"FORWARDED_ALLOW_IPS": "10.0.0.1/8"}, "10.0.0.1/8"),
    "every name": ({"ALLOWED_HOSTS": "*"}, "ALLOWED_HOSTS"),
}


@pytest.mark.extended
@pytest.mark.parametrize(("environ", "named"), UNSAFE.values(), ids=UNSAFE)
def test_what_is_unsafe_does_not_start_and_says_why_in_a_sentence(tmp_path, environ, named):
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
    plain = {"PATH": os.environ["PATH"], "PORT": "0", "ORDERFLOW_DATA": str(tmp_path), **environ}
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in {0, None}
    told = [line for line in (done.stdout + done.stderr).splitlines() if line and '"module":"server"' not in line]
    assert len(told) == 1, told
    assert named in told[0]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    assert not [
        value for name, value in environ.items() if name in ("AUTH_JWT_KEY", "MONGODB_URI") and value in told[0]
    ]
