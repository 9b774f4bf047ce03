"""API keys: from a file or the environment, kept as digests, compared in constant time."""

import hashlib
import hmac
import os
from pathlib import Path

from medgpt_ray.serving.settings import ENVIRONMENT, KEYS_VARIABLE


class KeysError(ValueError):
    """Keys that are asked for and cannot be had."""


class Keys:
    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def read(cls, source: str) -> "Keys":
        """From `environment` (separated by commas or spaces) or a file (one a line, # comments)."""
        if source == ENVIRONMENT:
            keys = os.environ.get(KEYS_VARIABLE, "").replace(",", " ").split()
            where = KEYS_VARIABLE
        else:
            try:
                lines = Path(source).read_text().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise KeysError(f"{source}: the API keys cannot be read: {error}") from error
            keys = [line.strip() for line in lines if line.strip() and line.strip()[0] != "#"]
            where = source
        if not keys:
            raise KeysError(f"{where}: holds no API key")
        return cls(keys)

    def find(self, authorization: bytes | None) -> str | None:
        """Eight hex digits that name the key of an Authorization header, none for a wrong one."""
        scheme, _, token = (authorization or b"").partition(b" ")
        given = hashlib.sha256(token.strip()).digest()
        known = False
        for digest in self._digests:
            known |= hmac.compare_digest(digest, given)
        return given.hex()[:8] if known and scheme.lower() == b"bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
