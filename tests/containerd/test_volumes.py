"""Directories of the host in containers, seen with ctr."""

from containerd.daemon import Containerd
from mounts import PrivateFolder, private_folder

__all__ = ["private_folder"]

_ROLE, _SANDBOX = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"


def test_what_is_mounted_on_the_host_after_the_pods_start_is_in_a_later_container_and_goes_with_it(
    daemon: Containerd, private_folder: PrivateFolder
) -> None:
    with daemon.hold("sleep", "1000", flags=("--annotation", f"{_ROLE}=sandbox")) as pod:
        volume = private_folder.mount_volume("late")
        (volume / "in").write_text("from the volume\n")
        done = daemon.run_container(
            *("sh", "-c", "cat /late/in; cp /late/in /late/out"),
            flags=(
                *("--annotation", f"{_ROLE}=container", "--annotation", f"{_SANDBOX}={pod}"),
                *("--mount", f"type=bind,src={volume},dst=/late,options=rbind:rw"),
            ),
        )

        assert (done.out, done.code) == ("from the volume\n", 0), done
        assert (volume / "out").read_text() == "from the volume\n"
        private_folder.unmount_volume(volume)
        assert private_folder.wait_until_free(volume) == set()
        assert daemon.find_status(pod) == "RUNNING"
