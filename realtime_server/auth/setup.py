"""Makes the token verifier from the settings."""

from __future__ import annotations

import attrs

from realtime_core.errors import ConfigError

from ..config import ServerConfig, read_jwks
from .keys_and_algorithms import VerificationKey, import_jwks, import_secret
from .tokens import TokenVerifier

__all__ = ["make_verifier", "reread_verifier"]


def make_verifier(config: ServerConfig) -> TokenVerifier:
    """Make a verifier with the keys of the settings.

    Raises:
        ConfigError: if a key cannot be used; it lists every problem.
    """
    keys: list[VerificationKey] = []
    problems = []
    if config.jwt_secret is not None:
        try:
            keys.append(import_secret(config.jwt_secret))
        except ValueError as exc:
            problems.append(f"JWT_SECRET {exc}")
    if config.jwt_jwks is not None:
        try:
            keys.extend(import_jwks(config.jwt_jwks))
        except ValueError as exc:
            problems.append(f"JWT_JWKS {exc}")
    if problems:
        raise ConfigError(problems)
    return TokenVerifier(keys, config.jwt_claim_validators)


def reread_verifier(config: ServerConfig) -> TokenVerifier:
    """Make a verifier with the keys that the file JWT_JWKS_FILE has now.

    Raises:
        ConfigError: if the file cannot be read, or its keys cannot be used.
    """
    path = config.jwt_jwks_file
    if path is None:
        raise ConfigError("JWT_JWKS_FILE is unset: there is no file to read again")
    try:
        with open(path, encoding="utf-8") as file:
            jwks = read_jwks(file.read())
    except OSError as exc:
        raise ConfigError(f"JWT_JWKS_FILE is {path!r}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"JWT_JWKS_FILE is {path!r}; {exc}") from None
    return make_verifier(attrs.evolve(config, jwt_jwks=jwks))
