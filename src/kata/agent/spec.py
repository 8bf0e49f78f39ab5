"""The specification of a container: from the wire's `oci.proto` to the config.json that an OCI runtime reads.

proto3 cannot tell "0" from "not set", so a zero is left out except where OCI demands the field or where zero is a
value of its own. Source of the names: the OCI runtime specification 1.0, config.md and config-linux.md.
"""

from typing import Any

from kata.protocol.messages import oci
from kata.protocol.protobuf import Message

# Names that are not the wire's with a small first letter.
_NAMES = {
    "Version": "ociVersion",
    "UID": "uid",
    "GID": "gid",
    "UIDMappings": "uidMappings",
    "GIDMappings": "gidMappings",
    "OOMScoreAdj": "oomScoreAdj",
    "CPU": "cpu",
    "Pagesize": "pageSize",
    "errnoret": "errnoRet",
}

# Fields that are written even when they are zero, false or empty. crun 1.8 wants a list of mounts, if need be empty.
_KEPT: dict[type[Message], frozenset[str]] = {
    oci.Spec: frozenset({"Version", "Mounts"}),
    oci.Process: frozenset({"Args", "Cwd", "User"}),
    oci.User: frozenset({"UID", "GID"}),
    oci.Root: frozenset({"Path"}),
    oci.Mount: frozenset({"destination"}),
    oci.Hook: frozenset({"Path"}),
    oci.POSIXRlimit: frozenset({"Type", "Hard", "Soft"}),
    oci.LinuxNamespace: frozenset({"Type"}),
    oci.LinuxIDMapping: frozenset({"HostID", "ContainerID", "Size"}),
    oci.LinuxDevice: frozenset({"Path", "Type", "UID", "GID"}),
    oci.LinuxDeviceCgroup: frozenset({"Allow"}),
    oci.LinuxHugepageLimit: frozenset({"Pagesize", "Limit"}),
    oci.LinuxInterfacePriority: frozenset({"Name", "Priority"}),
    oci.LinuxThrottleDevice: frozenset({"Major", "Minor", "Rate"}),
    oci.LinuxWeightDevice: frozenset({"Major", "Minor"}),
    oci.LinuxSeccomp: frozenset({"DefaultAction"}),
    oci.LinuxSyscall: frozenset({"Names", "Action"}),
    oci.LinuxSeccompArg: frozenset({"Index", "Value", "Op"}),
}
_NODES = frozenset("cbu")


def convert_spec(message: Message) -> dict[str, Any]:
    """Turn a message of `oci.proto` into what `json.dumps` makes an OCI runtime's input of."""
    kept = _KEPT.get(type(message), frozenset())
    out: dict[str, Any] = {}
    for field in message.FIELDS.values():
        value = getattr(message, field.name)
        if value is None or (not value and field.name not in kept):
            continue
        if field.kind == "message":
            value = [convert_spec(item) for item in value] if field.repeated else convert_spec(value)
        out[_NAMES.get(field.name) or field.name[0].lower() + field.name[1:]] = value
    if isinstance(message, oci.LinuxDeviceCgroup):
        _convert_device_rule(message, out)
    elif isinstance(message, oci.LinuxDevice) and message.Type in _NODES:
        out["major"], out["minor"] = message.Major, message.Minor
    return out


def _convert_device_rule(rule: oci.LinuxDeviceCgroup, out: dict[str, Any]) -> None:
    """Numbers of -1 and a pair of zeros mean "all": Go peers send zeros for numbers that are not set."""
    if rule.Major == 0 and rule.Minor == 0:
        return
    for name, number in (("major", rule.Major), ("minor", rule.Minor)):
        if number >= 0:
            out[name] = number
        else:
            out.pop(name, None)
