"""SHA-256 by CPython's own code. The module hashlib would load OpenSSL: 3 ms, and memory of each pod's daemon."""

from __future__ import annotations

try:  # the one in Python 3.11, the other from 3.12 on
    from _sha256 import sha256  # type: ignore[import-not-found]  # typeshed leaves private modules out
except ImportError:
    from _sha2 import sha256  # type: ignore[import-not-found]  # the same


def digest_bytes(data: bytes) -> bytes:
    """Return the 32 bytes of SHA-256."""
    digest: bytes = sha256(data).digest()
    return digest
