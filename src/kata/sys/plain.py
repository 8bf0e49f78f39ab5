"""asyncio without TLS, which nothing here speaks."""

import sys


def leave_out_tls() -> None:
    """Let asyncio do without OpenSSL, as where Python was built without it. Call this before asyncio is imported.

    It would cost each pod's daemon 4 MB of memory.
    """
    # Source: The Python Language Reference, 5.3.1: None as the value of a module makes its import fail.
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # typeshed knows modules only
