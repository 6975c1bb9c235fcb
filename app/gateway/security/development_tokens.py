"""Tokens for development and tests, signed with the secret that this server verifies tokens with."""

import time
from collections.abc import Iterable

import jwt
from werkzeug.datastructures import Headers

from app.config import BadSettings, Settings
from app.gateway.security import jwt_keys
from app.gateway.security.authentication import TokenVerifier

# How long a token may last, in seconds: in use, tokens come from an issuer.
MAX_SECONDS = 24 * 3600


def make_token(settings: Settings, user_id: str, scopes: Iterable[str], seconds: int) -> str:
    """A token of this user that lasts for `seconds`.

    Raises BadSettings where no secret is configured that can sign one, and InvalidToken if the server would not accept it.
    """
    if not settings.identity:
        raise BadSettings("Authentication is off, so that no token is needed: set AUTH_JWT_… to switch it on")
    if settings.auth_jwt_jwks or not settings.auth_jwt_algorithm.startswith("HS"):
        raise BadSettings(
            "This server has only public keys or a key set, which cannot sign: get a token from the issuer "
            f"{settings.auth_jwt_issuer}"
        )
    now = int(time.time())
    claims = {
        "iss": settings.auth_jwt_issuer,
        "aud": settings.auth_jwt_audience,
        "sub": user_id,
        "iat": now,
        "exp": now + seconds,
        "scope": " ".join(scopes),
    }
    key = jwt_keys.load_keys(settings)[jwt_keys.ANY_KID]
    token = jwt.encode(claims, key, settings.auth_jwt_algorithm)
    TokenVerifier(settings).caller(Headers({"Authorization": f"Bearer {token}"}), b"")
    return token
