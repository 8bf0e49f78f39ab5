"""The images that the CRI's tests ask for: equal in what those see of them, and made of Debian packages.

What upstream builds them from: the folder images/ of https://github.com/kubernetes-sigs/cri-tools and test/images/ of
https://github.com/kubernetes/kubernetes.
"""

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from podman.images import build_busybox, build_nginx, extract_debian
from registry import Image, Registry

PAUSE = "localhost/kata-test/pause:1"
BUSYBOX = "localhost/kata-test/busybox:1"
_E2E = "e2e-test-images"
_TOOLS = "k8s-staging-cri-tools"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD = """root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
default-user:x:1000:1000::/home:/bin/sh
"""
_GROUP = """root:x:0:
www-data:x:33:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
nobody:x:65534:
"""
# Debian's busybox is built without these two.
_PGREP = '#!/bin/sh\nexec pidof "$1"\n'
_IPCS = "#!/bin/sh\nawk '{ print $1, $2, $3, $8, $4, $7 }' /proc/sysvipc/shm\n"
_HOSTNET = """server {
    listen 12003;
    location / { root /var/www/html; index index.nginx-debian.html; }
}
"""


def add_base_images(registry: Registry, place: Path) -> None:
    """Put PAUSE and BUSYBOX into `registry`; layers that are made here are files in the directory `place`."""
    place.mkdir(parents=True, exist_ok=True)
    pause = _write_layer(place / "pause.tar", {"pause": Path("/usr/bin/catatonit").read_bytes()})
    for name, tag in (("kata-test/pause", "1"), ("pause", "3.9")):
        registry.add(name, tag, Image((pause,), {"Entrypoint": ["/pause", "-P"], "Labels": {"test": tag}}))
    registry.add("kata-test/busybox", "1", Image((build_busybox(),), {"Env": [_PATH], "Cmd": ["sh"]}))


def add_critest_images(registry: Registry, place: Path) -> None:
    """Put the images that critest names into `registry`, but the one that it asks for by the digest of its bytes."""
    busybox = (
        _build_critest_busybox(place / "busybox.tar"),
        _write_layer(
            place / "tools.tar",
            {
                "etc/passwd": _PASSWD.encode(),
                "etc/group": _GROUP.encode(),
                "usr/local/bin/pgrep": _PGREP.encode(),
                "usr/local/bin/ipcs": _IPCS.encode(),
                "www/index.html": b"<html>It works</html>\n",
            },
            folders=("root", "home", "dev", "proc", "sys", "tmp", "var/run"),
        ),
    )
    for name, tag, config in _list_busyboxes():
        registry.add(name, tag, Image(busybox, {"Env": [_PATH], "Cmd": ["sh"], **config}))
    httpd = {"Env": [_PATH], "Cmd": ["sh", "-c", "echo httpd serves port 80; exec httpd -f -p 80 -h /www"]}
    registry.add(f"{_E2E}/httpd", "2.4.39-4", Image(busybox, httpd))
    _add_debian_images(registry, place)


def _build_critest_busybox(target: Path) -> Path:
    """Write a layer of Debian's shared busybox, whose shell starts programs; that of busybox-static has them built in.

    The applets are hard links: a path that is masked in the container then masks one of them, as it does upstream.
    """
    packages = extract_debian("busybox-shared", "busybox")
    with tarfile.open(packages) as source, tarfile.open(target, "w") as layer, tempfile.TemporaryDirectory() as place:
        names = set()
        for member in source:
            member.name = member.name.removeprefix("./")
            names.add(member.name)
            if member.name.partition("/")[0] in ("bin", "lib", "lib64", "usr") and "/share/" not in member.name:
                layer.addfile(member, source.extractfile(member) if member.isreg() else None)
        for folder in {"bin", "lib", "lib64"} - names:  # packages of a later Debian have /usr only
            layer.addfile(_make_link(folder, tarfile.SYMTYPE, f"usr/{folder}"))
        busybox = next(name for name in names if name.endswith("bin/busybox"))
        program = Path(place, "busybox")
        program.write_bytes(_read_member(packages, "bin/busybox"))
        program.chmod(0o755)
        shown = subprocess.run([program, "--list"], capture_output=True, text=True, check=True, timeout=10)
        for applet in sorted(set(shown.stdout.split()) - {"busybox"}):
            layer.addfile(_make_link(f"{busybox.removesuffix('busybox')}{applet}", tarfile.LNKTYPE, busybox))
    return target


def _make_link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    link = tarfile.TarInfo(name)
    link.type, link.linkname, link.mode = kind, target, 0o755
    return link


def _list_busyboxes() -> list[tuple[str, str, dict[str, object]]]:
    """Return repository, tag and config of the images that differ in their config only."""
    found: list[tuple[str, str, dict[str, object]]] = [
        (f"{_E2E}/busybox", "1.29-2", {}),
        (f"{_TOOLS}/test-image-latest", "latest", {"Labels": {"test": "latest"}}),
        (f"{_TOOLS}/test-image-tag", "test", {"Labels": {"test": "tag"}}),
        (f"{_TOOLS}/test-image-tag", "all", {"Labels": {"test": "all"}}),
        (f"{_TOOLS}/test-image-user-uid", "latest", {"User": "1002"}),
        (f"{_TOOLS}/test-image-user-username", "latest", {"User": "www-data"}),
        (f"{_TOOLS}/test-image-user-uid-group", "latest", {"User": "1003:users"}),
        (f"{_TOOLS}/test-image-user-username-group", "latest", {"User": "www-data:100"}),
        (f"{_TOOLS}/test-image-predefined-group", "latest", {"User": "1000"}),
    ]
    for number in "123":
        found.append((f"{_TOOLS}/test-image-{number}", "latest", {"Labels": {"test": number}}))
        found.append((f"{_TOOLS}/test-image-tags", number, {"Labels": {"test": "tags"}}))
    return found


def _add_debian_images(registry: Registry, place: Path) -> None:
    debian = build_nginx()
    # GNU's grep takes /proc/<pid>/cmdline for a binary file, that of upstream's image does not.
    grep = _write_layer(place / "grep.tar", {"usr/local/bin/grep": Path("/bin/busybox").read_bytes()})
    nginx = {"Env": [_PATH], "Cmd": ["nginx", "-g", "daemon off;"]}
    hostnet = _write_layer(place / "hostnet.tar", {"etc/nginx/sites-enabled/default": _HOSTNET.encode()})
    # A copy of id(1) that belongs to root and has the set-user-ID bit stands for the program of upstream's image.
    setuid = _write_layer(place / "setuid.tar", {"nnp": _read_member(debian, "bin/id")}, mode=0o4755)
    show = {"Env": [_PATH], "Cmd": ["sh", "-c", 'echo "Effective uid: $(/nnp -u)"']}
    registry.add(f"{_E2E}/nginx", "1.14-2", Image((debian, grep), nginx))
    registry.add(f"{_TOOLS}/hostnet-nginx-amd64", "latest", Image((debian, hostnet), nginx))
    registry.add(f"{_E2E}/nonewprivs", "1.3", Image((debian, setuid), show))


def _read_member(archive: Path, end: str) -> bytes:
    """Return the content of the regular file whose name ends with `/` and `end`."""
    with tarfile.open(archive) as source:
        content = source.extractfile(next(m for m in source if m.isreg() and m.name.endswith(f"/{end}")))
        assert content is not None
        return content.read()


def _write_layer(target: Path, files: dict[str, bytes], *, folders: tuple[str, ...] = (), mode: int = 0o755) -> Path:
    with tarfile.open(target, "w") as archive:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return target
