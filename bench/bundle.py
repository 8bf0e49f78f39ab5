"""A bundle that kata-runtime and runc run alike: busybox, and nothing that only one of them could do."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_BUSYBOX = "/bin/busybox"
_APPLETS = ("dd", "nc", "ping", "sh", "sleep", "true", "wc")


def make_bundle(
    directory: Path,
    arguments: Sequence[str],
    *,
    network: str = "",
    programs: Sequence[Path] = (),
    mounts: Sequence[Mapping[str, Any]] = (),
    disk: Mapping[str, Any] | None = None,
) -> Path:
    """Make a bundle that runs `arguments`, for as often as it is run, in a `network` namespace: "" for a new one.

    It has `programs` beside busybox's, and OCI's `mounts` and a block device of `linux.devices` beside the usual ones.
    Raise OSError without a static busybox.
    """
    folder = directory / "rootfs/bin"
    folder.mkdir(parents=True)
    for name in ("dev", "etc", "proc", "sys", "tmp", *(mount["destination"].lstrip("/") for mount in mounts)):
        (directory / "rootfs" / name).mkdir()
    shutil.copy(_BUSYBOX, folder / "busybox")
    for name in _APPLETS:
        os.symlink("busybox", folder / name)
    for program in programs:
        shutil.copy(program, folder)
    spec = _describe(arguments, network)
    spec["mounts"] += mounts
    if disk is not None:
        rule = {"allow": True, "type": disk["type"], "major": disk["major"], "minor": disk["minor"], "access": "rwm"}
        spec["linux"] |= {"devices": [disk], "resources": {"devices": [rule]}}
    (directory / "config.json").write_text(json.dumps(spec))
    return directory


def _describe(arguments: Sequence[str], network: str) -> dict[str, Any]:
    """Return a specification. It sets no limits: raising them takes CAP_SYS_RESOURCE, which runc may not have."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(arguments),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
            "capabilities": {kind: ["CAP_NET_RAW"] for kind in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                {"type": "network"} | ({"path": network} if network else {}),
            ]
        },
    }
