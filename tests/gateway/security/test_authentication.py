"""Authentication: which keys are accepted, how a token becomes a caller, and the cache of valid tokens."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from flask import Flask
from werkzeug.datastructures import Headers

from app import gateway
from app.config import BadSettings, Settings
from app.contracts.base import NotFound
from app.gateway.security import jwt_keys
from app.gateway.security.authentication import (
    InvalidCredentials,
    InvalidToken,
    TokenVerifier,
    Unauthenticated,
    bearer_token,
)
from app.gateway.security.caller import ANONYMOUS, Caller, WrongUser, caller, check_may_place_for, check_may_see
from app.messaging.signal_bus import SignalBus

ROOT = Path(__file__).parents[3]
ISSUER, AUDIENCE = "https://issuer.example", "orderflow"
SECRET = "0123456789abcdef" * 4
PRIVATE = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
PRIVATE["PS256"] = PRIVATE["RS256"]
SHORT = rsa.generate_private_key(public_exponent=65537, key_size=1024)


def pem(key, private=False):
    if private:
        no_password = serialization.NoEncryption()
        kind = serialization.PrivateFormat.PKCS8
        return key.private_bytes(serialization.Encoding.PEM, kind, no_password).decode()
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode()


def jwk(algorithm, key, kid, **more):
    made = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key))
    return {**made, "kid": kid, "alg": algorithm, **more}


def identity(algorithm="HS256", **changes):
    base = Settings(
        auth_jwt_algorithm=algorithm, auth_jwt_key=SECRET, auth_jwt_issuer=ISSUER, auth_jwt_audience=AUDIENCE
    )
    return replace(base, **changes)


def claims(**changes):
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def token(key=SECRET, algorithm="HS256", headers=None, **changes):
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def show(text):
    return Headers({"Authorization": f"Bearer {text}"})


# --- keys ---


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_secret_as_long_as_its_hash_is_accepted(algorithm):
    verifier = TokenVerifier(identity(algorithm))
    assert verifier.caller(show(token(algorithm=algorithm)), b"").user_id == "ada"


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_public_key_is_accepted(algorithm):
    verifier = TokenVerifier(identity(algorithm, auth_jwt_key=pem(PRIVATE[algorithm])))
    assert verifier.caller(show(token(PRIVATE[algorithm], algorithm)), b"").user_id == "ada"


@pytest.mark.parametrize(("algorithm", "bits"), [("HS256", 256), ("HS384", 384), ("HS512", 512)])
def test_a_secret_shorter_than_its_hash_is_refused_unless_it_is_wanted(algorithm, bits):
    short = identity(algorithm, auth_jwt_key="k" * (bits // 8 - 1))
    with pytest.raises(BadSettings, match=f"{bits} bits.*short_jwt_key"):
        jwt_keys.load_keys(short)
    assert jwt_keys.load_keys(replace(short, allow_unsafe="short_jwt_key"))


def test_an_rsa_key_below_2048_bits_is_refused():
    with pytest.raises(BadSettings, match="2048 bits"):
        jwt_keys.load_keys(identity("RS256", auth_jwt_key=pem(SHORT)))


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", SECRET),
        ("RS256", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
        ("RS256", pem(PRIVATE["ES256"])),
        ("ES256", pem(PRIVATE["RS256"])),
        ("ES256", pem(PRIVATE["ES384"])),
        ("ES384", pem(PRIVATE["ES256"])),
        ("EdDSA", pem(PRIVATE["ES256"])),
        ("HS256", pem(PRIVATE["RS256"])),
        ("HS256", pem(PRIVATE["EdDSA"])),
    ],
    ids=lambda part: part[:40].split("\n")[0],
)
def test_a_key_of_another_kind_is_refused(algorithm, key):
    with pytest.raises(BadSettings, match="AUTH_JWT_KEY is not a key") as caught:
        jwt_keys.load_keys(identity(algorithm, auth_jwt_key=key))
    assert key not in str(caught.value)


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_private_key_is_refused(algorithm):
    with pytest.raises(BadSettings, match="private key"):
        jwt_keys.load_keys(identity(algorithm, auth_jwt_key=pem(PRIVATE[algorithm], private=True)))


def jwks(*listed, algorithm="ES256"):
    return identity(algorithm, auth_jwt_key=None, auth_jwt_jwks=json.dumps({"keys": listed}))


def test_of_a_set_the_key_counts_that_the_token_names():
    first, second = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    listed = [jwk("ES256", key.public_key(), kid) for key, kid in ((first, "a"), (second, "b"))]
    verifier = TokenVerifier(jwks(*listed, jwk("RS256", PRIVATE["RS256"].public_key(), "c")))
    for key, kid in ((first, "a"), (second, "b")):
        assert verifier.caller(show(token(key, "ES256", {"kid": kid})), b"").user_id == "ada"
    for key, headers in (
        (first, {"kid": "b"}),
        (first, {"kid": "c"}),
        (first, {"kid": "d"}),
        (first, {}),
        (first, {"kid": ""}),
    ):
        with pytest.raises(InvalidToken):
            verifier.caller(show(token(key, "ES256", headers)), b"")
    with pytest.raises(InvalidToken):
        verifier.caller(show(token(PRIVATE["RS256"], "RS256", {"kid": "c"})), b"")


GOOD_JWK = jwk("ES256", PRIVATE["ES256"].public_key(), "a")


SETS = {
    **{text: text for text in (" ", "[]", "{}", "7", '{"keys": 7}', '{"keys": [7]}', '{"keys": [{}]}')},
    "no key": [],
    "a key without a name": [{**GOOD_JWK, "kid": ""}],
    "a name that is a number": [{**GOOD_JWK, "kid": 7}],
    "no name": [{name: value for name, value in GOOD_JWK.items() if name != "kid"}],
    "two keys of one name": [GOOD_JWK, GOOD_JWK],
    "not on the curve": [{**GOOD_JWK, "x": "AAAA"}],
    "a secret": [{**GOOD_JWK, "kty": "oct", "k": "AAAA"}],
    "for no algorithm": [{**GOOD_JWK, "alg": "none"}],
    "to encrypt": [{**GOOD_JWK, "use": "enc"}],
    "private": [jwk("ES256", PRIVATE["ES256"], "a")],
}


@pytest.mark.parametrize("given", SETS.values(), ids=SETS)
def test_an_unusable_key_set_is_rejected(given):
    text = given if isinstance(given, str) else json.dumps({"keys": given})
    with pytest.raises(BadSettings, match="AUTH_JWT_JWKS"):
        jwt_keys.load_keys(identity("ES256", auth_jwt_key=None, auth_jwt_jwks=text))


def test_keys_are_checked_by_a_command_that_says_what_is_wrong():
    environ = {
        "AUTH_JWT_ALGORITHM": "HS256",
        "AUTH_JWT_KEY": "5h0rt",
        "AUTH_JWT_ISSUER": ISSUER,
        "AUTH_JWT_AUDIENCE": AUDIENCE,
    }
    command = [sys.executable, "-c", "from app.gateway.security.jwt_keys import main; main()"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("A key for HS256 is too short")
    good = subprocess.run(command, cwd=ROOT, env={**environ, "AUTH_JWT_KEY": SECRET}, capture_output=True, check=False)
    assert (good.returncode, good.stderr) == (0, b"")


# --- what a token says ---


@pytest.mark.parametrize(
    ("given", "scopes"),
    [
        ({"scope": "orders:read"}, {"orders:read"}),
        ({"scope": " orders:read  orders:write "}, {"orders:read", "orders:write"}),
        ({"scp": "orders:read"}, {"orders:read"}),
        ({"scp": ["orders:read", "orders:admin"]}, {"orders:read", "orders:admin"}),
        ({"scope": "openid email orders:read:all ORDERS:WRITE"}, set()),
        ({"scope": "orders:read", "scp": ["orders:admin"]}, {"orders:read"}),
        ({"roles": ["orders:admin"], "permissions": ["orders:write"]}, set()),
        ({}, set()),
    ],
    ids=lambda part: "" if isinstance(part, set) else str(part),
)
def test_scopes_come_from_scope_or_scp(given, scopes):
    assert TokenVerifier(identity()).caller(show(token(**given)), b"").scopes == scopes


@pytest.mark.parametrize("user", ["ada", "用户 7", "a@b.example", "a/b", "x" * 128])
def test_the_user_is_the_subject_as_it_is(user):
    assert TokenVerifier(identity()).caller(show(token(sub=user)), b"").user_id == user


@pytest.mark.parametrize("audience", ["orderflow", ["orderflow"], ["other", "orderflow"]])
def test_one_of_several_audiences_is_enough(audience):
    assert TokenVerifier(identity()).caller(show(token(aud=audience)), b"").user_id == "ada"


@pytest.mark.parametrize("late", [{"exp": -9}, {"iat": 9}, {"nbf": 9}], ids=lambda changes: next(iter(changes)))
def test_clocks_may_differ_by_the_leeway(late, monkeypatch):
    now = int(time.time())
    [(name, seconds)] = late.items()
    shown = show(token(**{name: now + seconds}))
    # The clock stands still: a token that is nearly too late would soon be.
    monkeypatch.setattr("jwt.api_jwt.datetime", SimpleNamespace(now=lambda tz: datetime.fromtimestamp(now, tz)))
    assert TokenVerifier(identity()).caller(shown, b"").user_id == "ada"
    with pytest.raises(InvalidToken):
        TokenVerifier(identity(auth_jwt_leeway=0)).caller(shown, b"")


# --- what is remembered ---


def test_a_valid_token_is_cached_for_a_while(monkeypatch):
    verifier, shown = TokenVerifier(identity()), show(token())
    first = verifier.caller(shown, b"")
    monkeypatch.setattr(verifier, "_claims", None)
    assert verifier.caller(shown, b"") is first
    now = time.time()
    monkeypatch.setattr("app.gateway.security.authentication.time.time", lambda: now + 61)
    with pytest.raises(TypeError):
        verifier.caller(shown, b"")


def test_an_invalid_token_is_not_cached():
    verifier = TokenVerifier(identity())
    for _ in range(2):
        with pytest.raises(InvalidToken):
            verifier.caller(show(token("x" * 64)), b"")
    assert not verifier._valid


def test_the_cache_of_tokens_is_bounded(monkeypatch):
    monkeypatch.setattr("app.gateway.security.authentication.CACHED_TOKENS", 5)
    verifier = TokenVerifier(identity())
    for number in range(20):
        verifier.caller(show(token(sub=f"user-{number}")), b"")
    assert len(verifier._valid) == 5


def test_tokens_themselves_are_not_kept():
    verifier, text = TokenVerifier(identity()), token()
    verifier.caller(show(text), b"")
    assert text not in repr(vars(verifier))


def test_two_headers_are_one_too_many():
    headers = Headers([("Authorization", "Bearer a"), ("Authorization", "Bearer a")])
    with pytest.raises(InvalidCredentials):
        bearer_token(headers)
    with pytest.raises(Unauthenticated):
        bearer_token(Headers())


# --- acting for other users ---


@pytest.fixture
def acting():
    """Act as a caller within a request."""
    app = Flask("app", static_folder=None)

    def act(who):
        context = app.test_request_context()
        context.push()
        from flask import g

        if who:
            g.caller = who
        return context

    opened = []
    yield lambda who: opened.append(act(who))
    for context in reversed(opened):
        context.pop()


def test_without_authentication_every_caller_may_do_everything(acting):
    acting(None)
    assert caller() is ANONYMOUS
    assert ANONYMOUS.on_behalf_of == ""
    check_may_place_for("bob")
    check_may_see("bob")


def test_a_user_acts_for_themselves_alone(acting):
    acting(Caller(user_id="ada", scopes=frozenset({"orders:read", "orders:write"})))
    assert caller().on_behalf_of == "ada"
    check_may_place_for("ada")
    check_may_see("ada")
    with pytest.raises(WrongUser):
        check_may_place_for("bob")
    with pytest.raises(NotFound):
        check_may_see("bob")


def test_an_operator_acts_for_all(acting):
    acting(Caller(user_id="olga", scopes=frozenset({"orders:admin"})))
    assert caller().on_behalf_of == ""
    check_may_place_for("bob")
    check_may_see("bob")


def test_a_short_key_stops_the_application_too():
    app = Flask("app", static_folder=None)
    with pytest.raises(BadSettings):
        gateway.install(app, SignalBus(), lambda: None, identity(auth_jwt_key="5h0rt"), lambda *_: (), lambda: b"")
