"""Authentication by bearer tokens (RFC 6750), verified as RFC 8725 recommends: the token never selects its verification."""

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
from app.gateway.http.visible_text import CONTROL_CHARACTERS, has_invisible
from app.gateway.security import jwt_keys
from app.gateway.security.caller import ADMIN, SCOPES, Caller

MAX_TOKEN_LENGTH = 8 * 1024
CACHED_TOKENS = 4096
CACHE_SECONDS = 60.0
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
REALM = 'Bearer realm="orderflow"'
BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)


class UndeclaredRoute(RuntimeError):
    """A route declares no scope: a mistake in the program."""


class Unauthenticated(ApplicationError):
    """The request has no bearer token."""

    code = "unauthenticated"


class InvalidToken(ApplicationError):
    """The token is not valid here."""

    code = "invalid_token"


class InvalidCredentials(ApplicationError):
    """There is more than one credential."""

    code = "invalid_credentials"


class InsufficientScope(ApplicationError):
    """The token lacks the scope in member `scope`."""

    code = "insufficient_scope"


class TokenVerifier:
    """Verifies tokens, and caches valid ones for at most CACHE_SECONDS."""

    def __init__(self, settings: Settings) -> None:
        self._algorithm = settings.auth_jwt_algorithm
        self._keys = jwt_keys.load_keys(settings)
        self._decoder = jwt.PyJWT({"require": ["exp", "iat", "iss", "aud", "sub"]})
        self._issuer = settings.auth_jwt_issuer
        self._audience = settings.auth_jwt_audience
        self._leeway = settings.auth_jwt_leeway
        self._valid: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def caller(self, headers: Headers, query: bytes) -> Caller:
        """The caller that the token names. Raises Unauthenticated, InvalidToken and InvalidCredentials."""
        token = bearer_token(headers, query)
        digest = sha256(token.encode()).digest()
        until, cached = self._valid.get(digest, (0.0, None))
        if cached and time.time() < until:
            return cached
        claims = self._claims(token)
        caller = _caller(claims)
        self._cache(digest, min(time.time() + CACHE_SECONDS, claims["exp"] + self._leeway), caller)
        return caller

    def _cache(self, digest: bytes, until: float, caller: Caller) -> None:
        self._valid[digest] = (until, caller)
        self._valid.move_to_end(digest)
        while len(self._valid) > CACHED_TOKENS:
            self._valid.popitem(last=False)

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
            raise _invalid_token(exc) from None
        if "crit" in header or str(header.get("typ", "JWT")).lower() not in TYPES:
            raise _invalid_token()
        if type(claims["exp"]) not in (int, float):
            raise _invalid_token()
        return claims

    def _key(self, header: dict[str, Any]) -> Any:
        single = self._keys.get(jwt_keys.ANY_KID)
        key = self._keys.get(header.get("kid", jwt_keys.ANY_KID)) if single is None else single
        if key is None:
            raise jwt.InvalidTokenError("unknown key")
        return key


def bearer_token(headers: Headers, query: bytes = b"") -> str:
    """The token of the Authorization header. Accepts exactly one header, and rejects it beside `access_token` in the query."""
    values = headers.getlist("Authorization")
    if not values:
        raise Unauthenticated("this needs a bearer token in the Authorization header", challenge=REALM)
    scheme = values[0].split(" ")[0].lower()
    if len(values) > 1 or "," in values[0] or b"access_token=" in query:
        raise InvalidCredentials(
            "the request has more than one credential", challenge=f'{REALM}, error="invalid_request"'
        )
    if scheme != "bearer":
        raise Unauthenticated("bearer tokens are the only credentials that are accepted", challenge=REALM)
    token = BEARER.fullmatch(values[0])
    if token is None or len(values[0]) > MAX_TOKEN_LENGTH:
        raise _invalid_token()
    return token[1]


def check_scope(caller: Caller, scope: str) -> None:
    """Raise InsufficientScope unless the caller has `scope`."""
    if not caller.has_scope(scope):
        challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'
        raise InsufficientScope(f"this needs the scope {scope}", scope=scope, challenge=challenge)


def required_scopes(app: Flask) -> dict[str, str | None]:
    """The scope that each endpoint needs, None for public ones. Raises UndeclaredRoute."""
    scopes = {}
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        declaration = getattr(view, "operation", view)
        if not hasattr(declaration, "scope"):
            raise UndeclaredRoute(f"{rule.rule} declares no scope")
        scopes[rule.endpoint] = declaration.scope
    return scopes


def install(app: Flask, settings: Settings, on_failure: Callable[[], object]) -> None:
    """Authenticate the callers of `app`, if that is configured; calls `on_failure` for every request that is rejected.

    Call it after all routes are added. Raises UndeclaredRoute.
    """
    scopes = required_scopes(app)
    app.config["IDENTITY"] = settings.identity
    if not settings.identity:
        return
    verifier = TokenVerifier(settings)

    def authenticate() -> None:
        # Without an endpoint there is nothing at the address. A route added later than this needs the admin scope.
        scope = scopes.get(request.endpoint, ADMIN) if request.endpoint else None
        if scope is None:
            return
        try:
            g.caller = verifier.caller(request.headers, request.query_string)
            check_scope(g.caller, scope)
        except (Unauthenticated, InvalidToken, InvalidCredentials, InsufficientScope):
            on_failure()
            raise

    app.before_request(authenticate)


def _caller(claims: dict[str, Any]) -> Caller:
    user_id, scope = claims["sub"], claims.get("scope", claims.get("scp", ""))
    if (
        not 1 <= len(user_id) <= 128
        or not user_id.strip()
        or CONTROL_CHARACTERS.search(user_id)
        or has_invisible(user_id)
    ):
        raise _invalid_token()
    scopes = scope.split() if isinstance(scope, str) else scope
    if not isinstance(scopes, list) or not all(isinstance(name, str) for name in scopes):
        raise _invalid_token()
    return Caller(user_id=user_id, scopes=SCOPES & set(scopes))


def _invalid_token(reason: Exception | None = None) -> InvalidToken:
    detail = "the token has expired" if isinstance(reason, jwt.ExpiredSignatureError) else "the token is not valid here"
    return InvalidToken(detail, challenge=f'{REALM}, error="invalid_token", error_description="{detail}"')
