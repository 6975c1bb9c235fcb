"""The keys that verify tokens: read from the settings once; weak keys and keys of the wrong kind are rejected."""

import json
import os
import sys
from typing import Any

import jwt
from jwt.algorithms import Algorithm
from jwt.exceptions import InvalidKeyError

from app.config import BadSettings, Settings

ANY_KID = ""
ENCRYPTION = "enc"


def load_keys(settings: Settings) -> dict[str, Any]:
    """The keys by their ids, or a single key under ANY_KID. Raises BadSettings, whose text never contains a key."""
    algorithm = jwt.get_algorithm_by_name(settings.auth_jwt_algorithm)
    if settings.auth_jwt_jwks:
        keys = _keys_of_set(algorithm, settings)
    else:
        keys = {ANY_KID: _prepared_key(algorithm, settings.auth_jwt_key, "AUTH_JWT_KEY", settings)}
    for key in keys.values():
        if algorithm.check_key_length(key) and not settings.allows("short_jwt_key"):
            raise BadSettings(
                f"A key for {settings.auth_jwt_algorithm} is too short: it needs {_minimum_length(settings)} at least, "
                "or set ALLOW_UNSAFE=short_jwt_key"
            )
    return keys


def _keys_of_set(algorithm: Algorithm, settings: Settings) -> dict[str, Any]:
    try:
        members = json.loads(settings.auth_jwt_jwks or "")["keys"]
        usable = [key for key in members if key.get("use") != ENCRYPTION and _fits_algorithm(key, settings)]
        keys = {key["kid"]: _key_of_jwk(algorithm, key, settings) for key in usable}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BadSettings("AUTH_JWT_JWKS must be a JSON Web Key Set whose keys each have a kid") from None
    if not keys or len(keys) < len(usable) or not all(isinstance(kid, str) and kid for kid in keys):
        raise BadSettings(f"AUTH_JWT_JWKS must have keys for {settings.auth_jwt_algorithm}, each with its own kid")
    return keys


def _fits_algorithm(key: dict[str, str], settings: Settings) -> bool:
    return key.get("alg", settings.auth_jwt_algorithm) == settings.auth_jwt_algorithm


def _key_of_jwk(algorithm: Algorithm, key: dict[str, Any], settings: Settings) -> Any:
    try:
        return _prepared_key(algorithm, algorithm.from_jwk(key), "AUTH_JWT_JWKS", settings)
    except InvalidKeyError:
        raise BadSettings(f"AUTH_JWT_JWKS has a key that does not fit {settings.auth_jwt_algorithm}") from None


def _prepared_key(algorithm: Algorithm, key: Any, name: str, settings: Settings) -> Any:
    try:
        prepared = algorithm.prepare_key(key)
    except (InvalidKeyError, ValueError, TypeError):
        raise BadSettings(f"{name} is not a key for {settings.auth_jwt_algorithm}") from None
    if hasattr(prepared, "private_bytes"):
        raise BadSettings(f"{name} is a private key: verifying tokens needs the public key only")
    return prepared


def _minimum_length(settings: Settings) -> str:
    kind, bits = settings.auth_jwt_algorithm[:2], settings.auth_jwt_algorithm[2:]
    return f"{bits} bits" if kind == "HS" else "2048 bits"


def main() -> None:
    """Check the keys in the environment; exits with the error text if they cannot be used."""
    try:
        load_keys(Settings.read(os.environ))
    except BadSettings as exc:
        sys.exit(str(exc))
