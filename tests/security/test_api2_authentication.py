"""API2:2023 Broken authentication: every token but a good one is refused, before anything is done."""

import base64
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tests.security import surface
from tests.security.conftest import AUDIENCE, ISSUER
from tests.security.surface import PROTECTED, named

OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KID_TRICKS = [
    "../../../../dev/null",
    "/etc/passwd",
    "' UNION SELECT 'key' --",
    "https://evil.example/key.pem",
    "$(id)",
    "\x00",
    "",
    "x" * 2000,
    {"$ne": ""},
    ["a"],
    1,
    None,
]


def encoded(part):
    text = part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def raw(header, claims, signature=b""):
    """A token, put together by hand."""
    return f"{encoded(header)}.{encoded(claims)}.{encoded(signature)}"


def mac(header, claims, key, hashing="sha256"):
    """A token signed with a secret, by hand: the library would not do it with a public key."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    return f"{signed}.{encoded(hmac.new(key, signed.encode(), hashing).digest())}"


def signed(issuer, claims=None, **header):
    return jwt.encode(claims or issuer.claims(), issuer.key, algorithm="RS256", headers=header)


def by_hand(issuer, header):
    """A token with a header that the library would mend, and a good signature."""
    text = f"{encoded(header)}.{encoded(issuer.claims())}"
    return f"{text}.{encoded(issuer.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def swapped(token, at):
    """A token with one character another, in the part `at`."""
    parts = token.split(".")
    middle = len(parts[at]) // 2
    parts[at] = parts[at][:middle] + ("A" if parts[at][middle] != "A" else "B") + parts[at][middle + 1 :]
    return ".".join(parts)


# What is made of the good issuer, and must not count. Each is sent as a bearer token.
TOKENS = {
    **{
        f"algorithm {name!r}": lambda issuer, name=name: raw({"alg": name, "typ": "JWT"}, issuer.claims())
        for name in ("none", "None", "NONE", "nOnE", "", "null", "HS256", "RS1", "XX999")
    },
    "no algorithm": lambda issuer: raw({"typ": "JWT"}, issuer.claims(), b"x"),
    "algorithm null": lambda issuer: raw({"alg": None}, issuer.claims(), b"x"),
    "algorithm none, but signed": lambda issuer: raw({"alg": "none"}, issuer.claims(), b"x" * 256),
    "signature taken away": lambda issuer: issuer.token().rsplit(".", 1)[0] + ".",
    "signature and dot taken away": lambda issuer: issuer.token().rsplit(".", 1)[0],
    **{
        f"{name} with the public key as the secret": lambda issuer, name=name, hashing=hashing: mac(
            {"alg": name, "typ": "JWT"}, issuer.claims(), issuer.public_pem, hashing
        )
        for name, hashing in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512"))
    },
    "RS256 claimed, HMAC with the public key": lambda issuer: mac(
        {"alg": "RS256", "typ": "JWT"}, issuer.claims(), issuer.public_pem
    ),
    "HS256 with an empty secret": lambda issuer: mac({"alg": "HS256"}, issuer.claims(), b""),
    "another key": lambda issuer: jwt.encode(issuer.claims(), OTHER_KEY, algorithm="RS256"),
    **{
        f"the right key, but {name}": lambda issuer, name=name: jwt.encode(issuer.claims(), issuer.key, algorithm=name)
        for name in ("RS384", "RS512", "PS256", "PS512")
    },
    "an elliptic curve": lambda issuer: jwt.encode(
        issuer.claims(), ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"
    ),
    **{f"one character of part {at} another": lambda issuer, at=at: swapped(issuer.token(), at) for at in range(3)},
    "another's claims under this signature": lambda issuer: ".".join(
        [*issuer.token().split(".")[:1], encoded(issuer.claims("bob")), issuer.token().split(".")[2]]
    ),
    "cut short": lambda issuer: issuer.token()[:-10],
    "one part": lambda issuer: "xyz",
    "two parts": lambda issuer: "abc.def",
    "four parts": lambda issuer: issuer.token() + ".abc",
    "five parts, as if encrypted": lambda issuer: "a.b.c.d.e",
    "dots": lambda issuer: "..",
    "padding": lambda issuer: issuer.token() + "====",
    "plain base64": lambda issuer: issuer.token().replace("-", "+").replace("_", "/") + "+/",
    "a header that is a list": lambda issuer: raw(["RS256"], issuer.claims(), b"x"),
    "a header that is no JSON": lambda issuer: raw(b"{", issuer.claims(), b"x"),
    "a header nested too deeply": lambda issuer: raw(b"[" * 3000, issuer.claims(), b"x"),
    "claims that are a list": lambda issuer: jwt.PyJWS().encode(b"[]", issuer.key, algorithm="RS256"),
    "claims that are no JSON": lambda issuer: jwt.PyJWS().encode(b"sub=ada", issuer.key, algorithm="RS256"),
    "claims nested too deeply": lambda issuer: jwt.PyJWS().encode(b'{"a":' * 900, issuer.key, algorithm="RS256"),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 11),
    "expired long ago": lambda issuer: issuer.token(exp=1),
    "valid from tomorrow": lambda issuer: issuer.token(nbf=int(time.time()) + 86400),
    "issued tomorrow": lambda issuer: issuer.token(iat=int(time.time()) + 86400),
    **{
        f"without {name}": lambda issuer, name=name: issuer.token(**{name: None})
        for name in ("exp", "iat", "iss", "aud")
    },
    "without a user": lambda issuer: jwt.encode(
        {name: value for name, value in issuer.claims().items() if name != "sub"}, issuer.key, algorithm="RS256"
    ),
    **{
        f"exp {value!r}": lambda issuer, value=value: issuer.token(exp=value)
        for value in ("never", "9999999999", [], {}, True, float("nan"), float("inf"), -1)
    },
    **{
        f"iat {value!r}": lambda issuer, value=value: issuer.token(iat=value) for value in ("now", [], {}, float("nan"))
    },
    **{
        f"nbf {value!r}": lambda issuer, value=value: issuer.token(nbf=value) for value in ("now", [], {}, float("inf"))
    },
    **{
        f"issuer {value!r}": lambda issuer, value=value: signed(issuer, issuer.claims() | {"iss": value})
        for value in (f"{ISSUER}/", ISSUER.upper(), "", "https://evil.example", ISSUER[:-1], f"{ISSUER}.evil.example")
    },
    **{
        f"audience {value!r}": lambda issuer, value=value: issuer.token(aud=value)
        for value in ("other", "", AUDIENCE.upper(), f"{AUDIENCE} other", [], ["other"], [[AUDIENCE]], {AUDIENCE: 1}, 1)
    },
    **{
        f"user {value!r}": lambda issuer, value=value: jwt.PyJWS().encode(
            json.dumps({**issuer.claims(), "sub": value}).encode(), issuer.key, algorithm="RS256"
        )
        for value in ("", " ", "a\nb", "a\0", "x" * 129, 7, None, ["ada"], {"$ne": ""}, True)
    },
    **{
        f"scope {value!r}": lambda issuer, value=value: issuer.token(scope=value)
        for value in (7, {"orders:admin": True}, [["orders:admin"]], [None], True)
    },
    **{
        f"type {value!r}": lambda issuer, value=value: signed(issuer, typ=value)
        for value in ("JOSE", "dpop+jwt", "id+jwt", "logout+jwt", "secevent+jwt", 1, ["JWT"])
    },
    **{
        f"critical {value!r}": lambda issuer, value=value: signed(issuer, crit=value, exp=1, b64=True)
        for value in (["exp"], ["b64"], [], "b64", ["http://evil.example"], [1], None)
    },
    "critical, and there": lambda issuer: by_hand(issuer, {"alg": "RS256", "b64": True, "crit": ["b64"]}),
    "an unencoded payload": lambda issuer: signed(issuer, b64=False),
    "9 KiB": lambda issuer: issuer.token(padding="x" * 6500),
}
# Whose signature is good all the same: what their header asks for must not matter.
HARMLESS = {
    **{f"kid {str(kid)[:20]!r}": {"kid": kid} for kid in KID_TRICKS if isinstance(kid, str)},
    "jku": {"jku": "http://127.0.0.1:9/jwks.json"},
    "x5u": {"x5u": "http://127.0.0.1:9/cert.pem"},
    "jwk": {"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_KEY.public_key()))},
    "x5c": {"x5c": ["MIIB"]},
    "cty": {"cty": "JWT"},
    "at+jwt": {"typ": "at+jwt"},
    "JWT in small letters": {"typ": "jwt"},
}
HEADERS = {
    "Basic": ("Basic YWRhOnNlY3JldA==", 401, "unauthenticated"),
    "Digest": ('Digest username="ada"', 401, "unauthenticated"),
    "an empty header": ("", 401, "unauthenticated"),
    "blanks": ("   ", 401, "unauthenticated"),
    "the token alone": ("{token}", 401, "unauthenticated"),
    "a scheme of another name": ("Token {token}", 401, "unauthenticated"),
    "Bearer alone": ("Bearer", 401, "invalid_token"),
    "Bearer and nothing": ("Bearer ", 401, "invalid_token"),
    "a word too many": ("Bearer {token} {token}", 401, "invalid_token"),
    "quotes": ('Bearer "{token}"', 401, "invalid_token"),
    "no blank": ("Bearer{token}", 401, "unauthenticated"),
    "a tab": ("Bearer\t{token}", 401, "unauthenticated"),
    "two in one": ("Bearer {token}, Bearer {token}", 400, "invalid_credentials"),
    "Basic as well": ("Bearer {token}, Basic YTpi", 400, "invalid_credentials"),
    "not ASCII": ("Bearer {token}é", 401, "invalid_token"),
}
every_protected_route = pytest.mark.parametrize(("method", "rule"), PROTECTED, ids=named(PROTECTED))


def send(fort, method, rule, authorization=None, **more):
    """Ask a route, with this Authorization header."""
    headers = {"Authorization": authorization} if authorization is not None else {}
    return fort.test_client().open(
        surface.address(rule), method=method, headers=headers, **surface.body(method, rule), **more
    )


def check_challenge(answer, error):
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer realm="orderflow"')
    assert (f'error="{error}"' in challenge) if error else ("error" not in challenge)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("make", TOKENS.values(), ids=TOKENS)
def test_a_token_that_is_not_good_opens_nothing(fort, issuer, refused, make):
    token = make(issuer)
    for method, rule in PROTECTED:
        answer = send(fort, method, rule, f"Bearer {token}")
        body = refused(answer, 401, "invalid_token")
        check_challenge(answer, "invalid_token")
        assert token[:20] not in answer.text
        assert body["detail"] in ("the token is not valid here", "the token has expired")


@pytest.mark.usefixtures("untouched")
@every_protected_route
@pytest.mark.parametrize(("header", "status", "code"), HEADERS.values(), ids=HEADERS)
def test_another_way_to_show_a_token_is_none(fort, issuer, refused, method, rule, header, status, code):
    answer = send(fort, method, rule, header.format(token=issuer.token()))
    refused(answer, status, code)
    errors = {"unauthenticated": "", "invalid_token": "invalid_token", "invalid_credentials": "invalid_request"}
    check_challenge(answer, errors[code])


@pytest.mark.usefixtures("untouched")
@every_protected_route
def test_a_request_without_a_token_is_challenged(fort, refused, method, rule):
    answer = send(fort, method, rule)
    refused(answer, 401, "unauthenticated")
    check_challenge(answer, "")


@pytest.mark.usefixtures("untouched")
@every_protected_route
def test_a_token_counts_in_its_header_alone(fort, issuer, refused, method, rule):
    token, mark = issuer.token(), "&" if "?" in surface.address(rule) else "?"
    address, body = f"{surface.address(rule)}{mark}access_token={token}", surface.body(method, rule)
    client = fort.test_client()
    refused(client.open(address, method=method, **body), 401, "unauthenticated")
    client.set_cookie("access_token", token)
    client.set_cookie("Authorization", f"Bearer {token}")
    refused(client.open(surface.address(rule), method=method, **body), 401, "unauthenticated")
    headers = {"Authorization": f"Bearer {token}"}
    answer = fort.test_client().open(address, method=method, headers=headers, **body)
    refused(answer, 400, "invalid_credentials")
    check_challenge(answer, "invalid_request")
    for name in ("X-Authorization", "Proxy-Authorization", "X-Forwarded-Authorization", "X-Access-Token"):
        moved = fort.test_client().open(surface.address(rule), method=method, headers={name: f"Bearer {token}"}, **body)
        refused(moved, 401, "unauthenticated")


@pytest.mark.parametrize("header", HARMLESS.values(), ids=HARMLESS)
def test_what_a_good_token_says_of_keys_is_not_listened_to(fort, issuer, header):
    assert send(fort, "GET", "/orders/<user_id>", f"Bearer {signed(issuer, **header)}").status_code == 200


@pytest.mark.parametrize("header", HARMLESS.values(), ids=HARMLESS)
def test_a_key_that_a_token_brings_along_does_not_make_it_good(fort, issuer, refused, header):
    forged = jwt.encode(issuer.claims(), OTHER_KEY, algorithm="RS256", headers=header)
    refused(send(fort, "GET", "/orders/<user_id>", f"Bearer {forged}"), 401, "invalid_token")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_a_good_token_counts_however_bearer_is_spelt(fort, issuer, scheme):
    assert send(fort, "GET", "/orders/<user_id>", f"{scheme} {issuer.token()}").status_code == 200


def test_a_token_of_8_kib_still_counts_and_a_longer_one_does_not(fort, issuer, refused):
    room = 8 * 1024 - len(f"Bearer {issuer.token(padding='')}")
    longest = issuer.token(padding="x" * (room * 3 // 4 - 3))
    assert 8 * 1024 - 8 <= len(f"Bearer {longest}") <= 8 * 1024
    assert send(fort, "GET", "/orders/<user_id>", f"Bearer {longest}").status_code == 200
    longer = issuer.token(padding="x" * (room * 3 // 4 + 3))
    refused(send(fort, "GET", "/orders/<user_id>", f"Bearer {longer}"), 401, "invalid_token")


def test_a_token_that_counted_once_does_not_count_beyond_its_end(fort, issuer, refused, monkeypatch):
    """What is remembered of a token ends with it."""
    authorization = f"Bearer {issuer.token(exp=int(time.time()) + 20)}"
    assert send(fort, "GET", "/orders/<user_id>", authorization).status_code == 200
    now = time.time()
    monkeypatch.setattr("app.gateway.security.authentication.time.time", lambda: now + 31)
    monkeypatch.setattr("jwt.api_jwt.datetime", _Later(31))
    refused(send(fort, "GET", "/orders/<user_id>", authorization), 401, "invalid_token")


class _Later:
    """A clock that is ahead."""

    def __init__(self, seconds):
        self._seconds = seconds

    def now(self, tz):
        from datetime import datetime, timedelta

        return datetime.now(tz) + timedelta(seconds=self._seconds)


def test_a_good_token_is_not_good_with_another_signature_once_it_was_seen(fort, issuer, refused):
    token = issuer.token()
    assert send(fort, "GET", "/orders/<user_id>", f"Bearer {token}").status_code == 200
    refused(send(fort, "GET", "/orders/<user_id>", f"Bearer {swapped(token, 2)}"), 401, "invalid_token")


def test_secrets_are_compared_in_constant_time():
    assert "compare_digest" in jwt.algorithms.HMACAlgorithm.verify.__code__.co_names
