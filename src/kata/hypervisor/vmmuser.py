"""The user id that a sandbox's VMM runs under: nobody else's, and no entry in any user database.

Ids come from 0x70000000 to 0x7fffffff: above what systemd gives to containers and to users (its UIDS-GIDS document ends
those at 0x6fffffff), below what programs that hold ids in signed integers can stand. 28 bits of the id's SHA-256, so
that two of 1000 sandboxes share a user with a chance of 1 in 500, and then are as far apart as two VMs of any ordinary
setup.
"""

from kata.sys.digest import digest_bytes

FIRST_ID = 0x70000000
LAST_ID = 0x7FFFFFFF


def derive_user_id(sandbox_id: str) -> int:
    """User and group id of the VMM of a sandbox. A pure function, so a crash cannot lose it."""
    drawn = int.from_bytes(digest_bytes(sandbox_id.encode())[:4], "big")
    return FIRST_ID + drawn % (LAST_ID - FIRST_ID + 1)
