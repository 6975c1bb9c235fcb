"""Who calls: bearer tokens (RFC 6750), checked as RFC 8725 asks: nothing in a token chooses how it is checked."""

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import jwt
from flask import Flask, g, request
from werkzeug.datastructures import Headers

from app.config import Settings
from app.contracts.base import ApplicationError
from app.gateway.http.schemas import UNPRINTABLE
from app.gateway.http.visible_text import hides
from app.gateway.security import jwt_keys
from app.gateway.security.caller import ADMIN, SCOPES, Caller

LARGEST_TOKEN = 8 * 1024
REMEMBERED = 4096
REMEMBERED_SECONDS = 60.0
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
REALM = 'Bearer realm="orderflow"'
BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)

View = Callable[..., Any]


class UndeclaredRoute(RuntimeError):
    """A route that does not say who may use it: a mistake in the composition."""


class Unauthenticated(ApplicationError):
    """Nobody said who calls."""

    code = "unauthenticated"


class InvalidToken(ApplicationError):
    """The token is none that counts here."""

    code = "invalid_token"


class InvalidCredentials(ApplicationError):
    """There is no saying which of several credentials counts."""

    code = "invalid_credentials"


class InsufficientScope(ApplicationError):
    """The token does not allow this; member `scope` would."""

    code = "insufficient_scope"


class Verifier:
    """Checks tokens, and remembers for a short while which were good."""

    def __init__(self, settings: Settings) -> None:
        self._algorithm = settings.auth_jwt_algorithm
        self._keys = jwt_keys.trusted(settings)
        self._decoder = jwt.PyJWT({"require": ["exp", "iat", "iss", "aud", "sub"]})
        self._issuer = settings.auth_jwt_issuer
        self._audience = settings.auth_jwt_audience
        self._leeway = settings.auth_jwt_leeway
        self._good: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def caller(self, headers: Headers, query: bytes) -> Caller:
        """Whom the Authorization header names. Raises Unauthenticated, InvalidToken and InvalidCredentials."""
        token = bearer_token(headers, query)
        digest = sha256(token.encode()).digest()
        until, known = self._good.get(digest, (0.0, None))
        if known and time.time() < until:
            return known
        claims = self._claims(token)
        found = _caller(claims)
        self._remember(digest, min(time.time() + REMEMBERED_SECONDS, claims["exp"] + self._leeway), found)
        return found

    def _remember(self, digest: bytes, until: float, found: Caller) -> None:
        self._good[digest] = (until, found)
        self._good.move_to_end(digest)
        while len(self._good) > REMEMBERED:
            self._good.popitem(last=False)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            claims = self._decoder.decode(
                token,
                self._key(header),
                algorithms=[self._algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway,
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError) as exc:
            raise _invalid(exc) from None
        if "crit" in header or str(header.get("typ", "JWT")).lower() not in TYPES:
            raise _invalid()
        if type(claims["exp"]) not in (int, float):
            raise _invalid()
        return claims

    def _key(self, header: dict[str, Any]) -> Any:
        only = self._keys.get(jwt_keys.ANY_KID)
        key = self._keys.get(header.get("kid", jwt_keys.ANY_KID)) if only is None else only
        if key is None:
            raise jwt.InvalidTokenError("unknown key")
        return key


def bearer_token(headers: Headers, query: bytes = b"") -> str:
    """The one token in the one Authorization header; one in the query does not count, and beside it is one too many."""
    given = headers.getlist("Authorization")
    if not given:
        raise Unauthenticated("this needs a bearer token in the Authorization header", challenge=REALM)
    scheme = given[0].split(" ")[0].lower()
    if len(given) > 1 or "," in given[0] or b"access_token=" in query:
        raise InvalidCredentials(
            "there is more than one that could count", challenge=f'{REALM}, error="invalid_request"'
        )
    if scheme != "bearer":
        raise Unauthenticated("bearer tokens are the only credentials that count here", challenge=REALM)
    token = BEARER.fullmatch(given[0])
    if token is None or len(given[0]) > LARGEST_TOKEN:
        raise _invalid()
    return token[1]


def check_scope(caller: Caller, scope: str) -> None:
    """Let through who has `scope`, or may do everything; else raise InsufficientScope."""
    if not caller.may(scope):
        challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'
        raise InsufficientScope(f"this needs the scope {scope}", scope=scope, challenge=challenge)


def policies(app: Flask) -> dict[str, str | None]:
    """The scope that each endpoint asks for, None where it is public. Raises UndeclaredRoute."""
    found = {}
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        declared = getattr(view, "operation", view)
        if not hasattr(declared, "scope"):
            raise UndeclaredRoute(f"{rule.rule} does not say who may use it")
        found[rule.endpoint] = declared.scope
    return found


def install(app: Flask, settings: Settings, failed: Callable[[], object]) -> None:
    """Ask callers of `app` who they are, where that is set; `failed` is called for each whose token does not let them in.

    Call it when all routes are there. Raises UndeclaredRoute.
    """
    scopes = policies(app)
    app.config["IDENTITY"] = settings.identity
    if not settings.identity:
        return
    verifier = Verifier(settings)

    def identify() -> None:
        # No endpoint: nothing is at this address. A route that came later than this asks for the most.
        scope = scopes.get(request.endpoint, ADMIN) if request.endpoint else None
        if scope is None:
            return
        try:
            g.caller = verifier.caller(request.headers, request.query_string)
            check_scope(g.caller, scope)
        except (Unauthenticated, InvalidToken, InvalidCredentials, InsufficientScope):
            failed()
            raise

    app.before_request(identify)


def _caller(claims: dict[str, Any]) -> Caller:
    user_id, given = claims["sub"], claims.get("scope", claims.get("scp", ""))
    if not 1 <= len(user_id) <= 128 or not user_id.strip() or UNPRINTABLE.search(user_id) or hides(user_id):
        raise _invalid()
    listed = given.split() if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(scope, str) for scope in listed):
        raise _invalid()
    return Caller(user_id=user_id, scopes=SCOPES & set(listed))


def _invalid(why: Exception | None = None) -> InvalidToken:
    expired = isinstance(why, jwt.ExpiredSignatureError)
    detail = "the token has expired" if expired else "the token does not count here"
    return InvalidToken(detail, challenge=f'{REALM}, error="invalid_token", error_description="{detail}"')
