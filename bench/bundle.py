"""A bundle that kata-runtime and runc run alike: busybox, and nothing that only one of them could do."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_BUSYBOX = "/bin/busybox"
_APPLETS = ("dd", "nc", "ping", "sh", "sleep", "true", "wc")


def make_bundle(directory: Path, arguments: Sequence[str], *, network: str = "") -> Path:
    """Make a bundle that runs `arguments`, for as often as it is run, in a `network` namespace: "" for a new one.

    Raise OSError without a static busybox.
    """
    programs = directory / "rootfs/bin"
    programs.mkdir(parents=True)
    for name in ("dev", "etc", "proc", "sys", "tmp"):
        (directory / "rootfs" / name).mkdir()
    shutil.copy(_BUSYBOX, programs / "busybox")
    for name in _APPLETS:
        os.symlink("busybox", programs / name)
    (directory / "config.json").write_text(json.dumps(_describe(arguments, network)))
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
