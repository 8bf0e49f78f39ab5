"""IOMMU groups of a config.json."""

from kata.sandbox.iommugroup import Group, find_groups, is_vfio_path

_DEVICES = [
    {"path": "/dev/vfio/7", "type": "c", "major": 511, "minor": 0},
    {"path": "/dev/vfio/vfio", "type": "c", "major": 10, "minor": 196},
    {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
]


def _allow(major: int, minor: int) -> dict[str, object]:
    return {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}


def test_a_group_is_one_with_a_rule_of_its_own() -> None:
    rules = [_allow(511, 0), _allow(10, 196), _allow(1, 3)]
    document = {"linux": {"devices": _DEVICES, "resources": {"devices": rules}}}
    assert find_groups(document) == (Group("/dev/vfio/7", 511, 0),)


def test_a_privileged_container_has_no_group_by_being_shown_all_devices() -> None:
    document = {"linux": {"devices": _DEVICES, "resources": {"devices": [{"allow": True, "access": "rwm"}]}}}
    assert find_groups(document) == ()
    assert find_groups({}) == ()
    assert is_vfio_path("/dev/vfio/vfio")
