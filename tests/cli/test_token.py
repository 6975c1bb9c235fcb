"""`token` makes tokens that the server accepts, and says in a sentence why it cannot."""

import json

import jwt
import pytest

from app.config import Settings
from app.gateway.security.caller import SCOPES
from app.main import create_app, runtime

SECRET = {
    "auth_jwt_algorithm": "HS256",
    "auth_jwt_key": "k" * 32,
    "auth_jwt_issuer": "i",
    "auth_jwt_audience": "a",
    "auth_failure_limit": "",
    "log_level": "error",
}
PUBLIC_KEY = {**SECRET, "auth_jwt_algorithm": "ES256", "auth_jwt_key": "-----BEGIN PUBLIC KEY-----"}
OTHERS = {"modules": "orders,payments", "bus_url": "amqp://127.0.0.1:9"}
KEY_SET = {**SECRET, "auth_jwt_key": None, "auth_jwt_jwks": '{"keys": []}'}


@pytest.fixture
def commands():
    """The commands of an application with these settings; and the application."""
    made = []

    def with_settings(**settings):
        # The gateway of an application verifies its keys, which must not keep the command from saying what is wrong.
        modules = {} if settings.get("auth_jwt_algorithm") == "HS256" and settings.get("auth_jwt_key") else OTHERS
        made.append(create_app(Settings(**settings, **modules)))
        return made[-1]

    yield with_settings
    for app in made:
        runtime(app).stop()


def run(app, *words):
    return app.test_cli_runner().invoke(args=["token", *words])


@pytest.mark.parametrize("scope", [None, *sorted(SCOPES)])
def test_a_token_is_accepted_by_the_server_that_has_the_secret(commands, scope):
    app = commands(**SECRET)
    made = run(app, "--user", "ada", *(["--scope", scope] if scope else []), "--seconds", "60")
    assert made.exit_code == 0, made.output
    token = made.output.strip()
    claims = jwt.decode(token, "k" * 32, algorithms=["HS256"], audience="a", issuer="i")
    assert (claims["sub"], claims["scope"]) == ("ada", scope or "orders:read orders:write")
    assert claims["exp"] - claims["iat"] == 60
    answer = app.test_client().get("/orders/bob", headers={"Authorization": f"Bearer {token}"})
    # Another user's list: not found for those who may read, before any database is asked.
    expected = {None: "order_not_found", "orders:read": "order_not_found", "orders:admin": "unavailable"}
    assert answer.json["code"] == expected.get(scope, "insufficient_scope")


def test_the_token_can_be_json(commands):
    told = json.loads(run(commands(**SECRET), "--user", "ada", "--json").output)
    assert told.keys() == {"token", "user", "scopes", "seconds"}
    assert (told["user"], told["scopes"], told["seconds"]) == ("ada", ["orders:read", "orders:write"], 3600)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({}, "Authentication is off"), (PUBLIC_KEY, "cannot sign"), (KEY_SET, "cannot sign")],
    ids=["no identity", "a public key", "a key set"],
)
def test_where_no_secret_can_sign_a_sentence_says_so(commands, settings, sentence):
    made = run(commands(**settings), "--user", "ada")
    assert made.exit_code == 1
    assert sentence in made.output
    assert len(made.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [["--scope", "orders:all"], ["--seconds", "0"], ["--seconds", "86401"], ["--seconds", "x"]],
    ids=" ".join,
)
def test_a_wrong_option_is_a_wrong_usage(commands, words):
    assert run(commands(**SECRET), *words).exit_code == 2


@pytest.mark.parametrize("user", ["", " ", "x" * 129, "a\u202eb"])
def test_no_token_is_made_that_the_server_would_refuse(commands, user):
    made = run(commands(**SECRET), "--user", user)
    assert (made.exit_code, made.output.strip()) == (1, "Error: the token is not valid here")
