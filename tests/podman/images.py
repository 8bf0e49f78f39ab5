"""Images for the tests with Podman, made of Debian packages: no registry is asked.

An archive is made once per content: its name in the cache carries a hash of the recipe and of the packages' versions.

    images.py            build what is missing and load all into Podman's storage
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("KATA_CACHE", "/var/cache/kata-containers")) / "test-images"
BUSYBOX = "localhost/kata-test/busybox"
PYTHON = "localhost/kata-test/python"
NGINX = "localhost/kata-test/nginx"
_BUILD_TIMEOUT = 600
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"


def load_image(name: str) -> str:
    """Make sure that Podman has the image `name`, one of the three above, and return the name."""
    build, changes = _RECIPES[name]
    if subprocess.run(["podman", "image", "exists", name], check=False, timeout=60).returncode:
        command = ["podman", "import", "--quiet"]
        for change in changes:
            command += ["--change", change]
        subprocess.run([*command, str(build()), name], check=True, stdout=subprocess.DEVNULL, timeout=300)
    return name


def build_busybox() -> Path:
    version = _ask_version("busybox-static")
    target = _cached("busybox", version)
    if not target.exists():
        _publish(target, _pack_busybox())
    return target


def _pack_busybox() -> bytes:
    listed = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True, timeout=10)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755)):
            _add(archive, tarfile.TarInfo(folder), mode, kind=tarfile.DIRTYPE)
        _add(archive, tarfile.TarInfo("bin/busybox"), 0o755, Path("/bin/busybox").read_bytes())
        for applet in sorted(set(listed.stdout.split()) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.linkname = "bin/busybox"
            _add(archive, link, 0o755, kind=tarfile.LNKTYPE)
        _add(archive, tarfile.TarInfo("etc/passwd"), 0o644, _PASSWD)
        _add(archive, tarfile.TarInfo("etc/group"), 0o644, _GROUP)
    return packed.getvalue()


def _add(archive: tarfile.TarFile, entry: tarfile.TarInfo, mode: int, content: bytes = b"", kind: bytes = b"0") -> None:
    entry.type = kind
    entry.mode = mode
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def build_python() -> Path:
    return _build_debian("python", "python3-minimal,libpython3-stdlib")


def build_nginx() -> Path:
    return _build_debian("nginx", "nginx-light")


def extract_debian(name: str, packages: str) -> Path:
    """Unpack the packages (comma-separated) and those that they depend on, configure none, and return the archive."""
    return _build_debian(name, packages, variant="extract")


def _build_debian(name: str, packages: str, *, variant: str = "essential") -> Path:
    """Build the smallest Debian that has the packages (comma-separated)."""
    version = "-".join(_ask_version(package) for package in packages.split(","))
    target = _cached(name, packages + version)
    if not target.exists():
        fresh = target.with_suffix(".new.tar")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--mode=root",
                f"--variant={variant}",
                f"--include={packages}",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                _ask_suite(),
                str(fresh),
            ],
            check=True,
            timeout=_BUILD_TIMEOUT,
        )
        fresh.replace(target)
    return target


def _ask_version(package: str) -> str:
    shown = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", package], capture_output=True, text=True, check=True, timeout=60
    )
    return next(line.split()[1] for line in shown.stdout.splitlines() if line.startswith("Version:"))


def _ask_suite() -> str:
    with open("/etc/os-release", encoding="utf-8") as file:
        return next(line.partition("=")[2].strip('"\n') for line in file if line.startswith("VERSION_CODENAME="))


def _cached(name: str, inputs: str) -> Path:
    recipe = hashlib.sha256(Path(__file__).read_bytes() + inputs.encode()).hexdigest()[:16]
    return CACHE / f"{name}-{recipe}.tar"


def _publish(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new.tar")
    fresh.write_bytes(content)
    fresh.replace(target)


_RECIPES: dict[str, tuple[Callable[[], Path], list[str]]] = {
    BUSYBOX: (build_busybox, ['CMD ["/bin/sh"]', "ENV PATH=/bin"]),
    PYTHON: (build_python, ['CMD ["/usr/bin/python3"]']),
    NGINX: (build_nginx, ['CMD ["/usr/sbin/nginx", "-g", "daemon off;"]', "STOPSIGNAL SIGQUIT"]),
}


if __name__ == "__main__":
    for image in _RECIPES:
        print(load_image(image), file=sys.stdout, flush=True)
