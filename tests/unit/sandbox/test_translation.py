from pathlib import Path
from typing import Any

import pytest

from kata.errors import UsageError
from kata.sandbox.translation import Translation, translate_spec


def _translate(bundle: Path, **more: Any) -> Translation:
    spec = {"root": {"path": "rootfs"}, "process": {"args": ["sh"]}, **more}
    return translate_spec(spec, "c", str(bundle))


def _bind(source: str, *options: str) -> dict[str, Any]:
    return {"destination": "/x", "type": "bind", "source": source, "options": ["rbind", *options]}


def test_a_relative_source_is_in_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shared = _translate(tmp_path, mounts=[_bind("data", "ro")]).shared[1]
    assert (shared.source, shared.readonly) == (f"{tmp_path}/data", True)


def test_a_long_name_is_cut_to_what_a_directory_entry_holds(tmp_path: Path) -> None:
    source = tmp_path / ("n" * 255)
    source.touch()
    assert len(_translate(tmp_path, mounts=[_bind(str(source))]).shared[1].name) < 100


@pytest.mark.parametrize("source", ["absent", "/absent", ""])
def test_a_missing_source_is_an_error_that_names_it(tmp_path: Path, source: str) -> None:
    with pytest.raises(UsageError, match="missing"):
        _translate(tmp_path, mounts=[_bind(source)])


def test_no_host_path_of_a_mount_or_namespace_survives(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    namespaces = [{"type": kind, "path": f"{tmp_path}/ns"} for kind in ("network", "ipc", "uts", "pid", "time")]
    translation = _translate(tmp_path, mounts=[_bind(f"{tmp_path}/file")], linux={"namespaces": namespaces})
    spec = translation.spec
    spec.Annotations = {}
    assert str(tmp_path) not in repr(spec)
    assert spec.Linux is not None
    assert [namespace.Type for namespace in spec.Linux.Namespaces] == ["ipc", "uts"]
    assert translation.sandbox_pidns


def test_a_device_of_the_host_is_the_guests_own_and_shm_is_the_sandboxs(tmp_path: Path) -> None:
    shm = {"destination": "/dev/shm", "type": "bind", "source": str(tmp_path), "options": ["bind"]}
    translation = _translate(tmp_path, mounts=[_bind("/dev/null"), shm])
    assert len(translation.shared) == 1
    assert [mount.source for mount in translation.spec.Mounts] == ["/dev/null", "/run/kata-containers/sandbox/shm"]


def test_only_the_hooks_that_run_in_the_container_reach_the_guest(tmp_path: Path) -> None:
    points = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    hooks = _translate(tmp_path, hooks={point: [{"path": f"/{point}"}] for point in points}).spec.Hooks
    assert hooks is not None
    assert [hook.Path for hook in hooks.StartContainer] == ["/startContainer"]
    for dropped in (hooks.Prestart, hooks.CreateRuntime, hooks.CreateContainer, hooks.Poststart, hooks.Poststop):
        assert dropped == []
