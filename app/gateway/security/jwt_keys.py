"""The keys that tokens are checked with: read from the settings once, and refused where they are weak or of the wrong kind."""

import json
import os
import sys
from typing import Any

import jwt
from jwt.algorithms import Algorithm
from jwt.exceptions import InvalidKeyError

from app.config import BadSettings, Settings

ANY_KID = ""
OTHER_USE = "enc"


def trusted(settings: Settings) -> dict[str, Any]:
    """Each key by its id, or the only one under ANY_KID. Raises BadSettings, which never tells a key."""
    algorithm = jwt.get_algorithm_by_name(settings.auth_jwt_algorithm)
    if settings.auth_jwt_jwks:
        keys = _of_set(algorithm, settings)
    else:
        keys = {ANY_KID: _prepared(algorithm, settings.auth_jwt_key, "AUTH_JWT_KEY", settings)}
    for key in keys.values():
        if algorithm.check_key_length(key) and not settings.allows("short_jwt_key"):
            raise BadSettings(
                f"A key for {settings.auth_jwt_algorithm} is too short: take one of {_least(settings)} at least, "
                "or set ALLOW_UNSAFE=short_jwt_key"
            )
    return keys


def _of_set(algorithm: Algorithm, settings: Settings) -> dict[str, Any]:
    try:
        listed = json.loads(settings.auth_jwt_jwks or "")["keys"]
        usable = [key for key in listed if key.get("use") != OTHER_USE and _fits(key, settings)]
        keys = {key["kid"]: _of_jwk(algorithm, key, settings) for key in usable}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BadSettings("AUTH_JWT_JWKS must be a JSON Web Key Set whose keys each have a kid") from None
    if not keys or len(keys) < len(usable) or not all(isinstance(kid, str) and kid for kid in keys):
        raise BadSettings(f"AUTH_JWT_JWKS must have keys for {settings.auth_jwt_algorithm}, each with a kid of its own")
    return keys


def _fits(key: dict[str, str], settings: Settings) -> bool:
    return key.get("alg", settings.auth_jwt_algorithm) == settings.auth_jwt_algorithm


def _of_jwk(algorithm: Algorithm, key: dict[str, Any], settings: Settings) -> Any:
    try:
        return _prepared(algorithm, algorithm.from_jwk(key), "AUTH_JWT_JWKS", settings)
    except InvalidKeyError:
        raise BadSettings(f"AUTH_JWT_JWKS has a key that is none for {settings.auth_jwt_algorithm}") from None


def _prepared(algorithm: Algorithm, key: Any, name: str, settings: Settings) -> Any:
    try:
        prepared = algorithm.prepare_key(key)
    except (InvalidKeyError, ValueError, TypeError):
        raise BadSettings(f"{name} is no key for {settings.auth_jwt_algorithm}") from None
    if hasattr(prepared, "private_bytes"):
        raise BadSettings(f"{name} is a private key: who checks tokens needs the public one only")
    return prepared


def _least(settings: Settings) -> str:
    kind, bits = settings.auth_jwt_algorithm[:2], settings.auth_jwt_algorithm[2:]
    return f"{bits} bits" if kind == "HS" else "2048 bits"


def main() -> None:
    """Check the keys that the environment names; ends with what is wrong with them."""
    try:
        trusted(Settings.read(os.environ))
    except BadSettings as exc:
        sys.exit(str(exc))
