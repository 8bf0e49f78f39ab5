"""What the disk tells a command about containers: which sandbox has it, and its last known state.

The daemon writes these records (kata.sandbox.store); reading them here keeps that package's imports off the hot path.
"""

from __future__ import annotations

import json
import os

from kata.cli.container_id import check_id
from kata.errors import HostError, NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = dict[str, Any]


def read_record(root: str, container: str) -> Record:
    """Return a container's record. Raise NotFoundError in runc's words, which Podman looks for."""
    path = find_record_path(root, check_id(container))
    try:
        with open(path) as file:
            record: Record = json.load(file)
    except FileNotFoundError:
        raise NotFoundError("container does not exist") from None
    except ValueError as error:
        raise HostError(f"the record {path} is not JSON: {error}", hint="remove it with delete --force") from error
    return record


def list_records(root: str) -> list[Record]:
    """Return all records by id. One that vanishes or cannot be read meanwhile is left out."""
    try:
        names = sorted(os.listdir(f"{root}/containers"))
    except FileNotFoundError:
        return []
    records = []
    for name in names:
        if name.endswith(".json"):
            try:
                records.append(read_record(root, name.removesuffix(".json")))
            except (NotFoundError, HostError):
                continue
    return records


def find_key(record: Record) -> str:
    """Return what a record's file is called by: ids are unique within a namespace of containerd's."""
    return f"{record['id']}+{record['namespace']}" if record.get("namespace") else str(record["id"])


def find_record_path(root: str, key: str) -> str:
    return f"{root}/containers/{key}.json"


def find_sandbox_dir(root: str, sandbox: str) -> str:
    return f"{root}/sandboxes/{sandbox}"


def describe_stopped(record: Record) -> dict[str, Any]:
    """Return the OCI state of a container whose sandbox is gone. Source: OCI runtime.md#state."""
    state: dict[str, Any] = {
        "ociVersion": record.get("ociVersion", "1.0.2"),
        "id": record["id"],
        "pid": 0,
        "status": "stopped",
        "bundle": record.get("bundle", ""),
        "rootfs": record.get("rootfs", ""),
        "created": record.get("created", ""),
        "owner": "",
    }
    if record.get("annotations"):
        state["annotations"] = record["annotations"]
    return state
