"""Names of users looked up in a container's root."""

from pathlib import Path

import pytest

from kata.agent.user import resolve_user
from kata.errors import UsageError
from kata.protocol.messages.agent import StringUser


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("# comment\nroot:x:0:0::/:\nalice:x:1000:100::/:\nbroken\n")
    (root / "etc/group").write_text("users:x:100:\nwheel:x:10:alice\n")
    (tmp_path / "passwd").write_text("outside:x:666:666::/:\n")
    return str(root)


def test_a_name_brings_its_own_group(rootfs: str) -> None:
    user = resolve_user(StringUser(uid="alice"), rootfs)

    assert (user.UID, user.GID, user.Username) == (1000, 100, "alice")


def test_a_group_that_is_named_counts_more(rootfs: str) -> None:
    user = resolve_user(StringUser(uid="1000", gid="wheel", additionalGids=["users", "77"]), rootfs)

    assert (user.UID, user.GID, user.AdditionalGids) == (1000, 10, [100, 77])


def test_a_number_needs_no_entry(rootfs: str) -> None:
    user = resolve_user(StringUser(uid="4242", gid="4343"), rootfs)

    assert (user.UID, user.GID) == (4242, 4343)


@pytest.mark.parametrize(
    "wanted", [StringUser(uid="mallory"), StringUser(uid="root", gid="nobody"), StringUser(uid="broken")]
)
def test_an_unknown_name_is_refused(rootfs: str, wanted: StringUser) -> None:
    with pytest.raises(UsageError, match="has no"):
        resolve_user(wanted, rootfs)


def test_a_link_of_the_image_cannot_lead_out_of_it(rootfs: str) -> None:
    passwd = Path(rootfs) / "etc/passwd"
    passwd.unlink()
    passwd.symlink_to("../../passwd")

    with pytest.raises(UsageError):
        resolve_user(StringUser(uid="outside"), rootfs)
