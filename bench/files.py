"""Files and a block device of the host in a container: the way of the share, or of a disk, beside a bind mount by runc.

One program does the work and measures it by its own clock, so that neither a runtime's start nor an exec counts. What
it reads was written by the host just before: it is in the host's memory, and not in the guest's, which never saw it.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.bundle import make_bundle
from bench.runtime import Runtime, read_output

_TIMEOUT = 600.0
_BLOCK = 1 << 20
DISK_PATH = "/dev/disk"
_PROGRAM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, PAGE = 4096 };
static char *room;

static double now(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void check(int good, const char *what)
{
    if (good)
        return;
    perror(what);
    exit(1);
}

static void say(const char *what, double began)
{
    printf("%s %.6f\n", what, now() - began);
}

static int open_it(const char *path, int flags)
{
    int file = open(path, flags, 0644);

    check(file >= 0, path);
    return file;
}

static void write_blocks(const char *path, int flags, int count)
{
    int file = open_it(path, O_WRONLY | flags);
    double began = now();

    for (int number = 0; number < count; number++)
        check(write(file, room, BLOCK) == BLOCK, "write");
    check(!fsync(file), "fsync");
    say("write", began);
    close(file);
}

static void read_pages(const char *path, int flags, int count, int pages)
{
    int file = open_it(path, O_RDONLY | flags);
    unsigned place = 12345;
    double began = now();

    posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
    for (int number = 0; number < count; number++) {
        place = place * 1103515245u + 12345u;
        check(pread(file, room, PAGE, (off_t)(place >> 8) % pages * PAGE) == PAGE, "pread");
    }
    say("random", began);
    close(file);
}

static void read_blocks(const char *path, int flags, int count)
{
    int file = open_it(path, O_RDONLY | flags);
    double began = now();

    for (int number = 0; number < count; number++)
        check(read(file, room, BLOCK) == BLOCK, "read");
    say("read", began);
    close(file);
}

static void change_names(const char *directory, int count)
{
    static const char *const words[] = {"create", "stat", "unlink"};
    struct stat status;
    char name[32];

    check(!chdir(directory), directory);
    for (int step = 0; step < 3; step++) {
        double began = now();

        for (int number = 0; number < count; number++) {
            snprintf(name, sizeof name, "file%d", number);
            if (step == 0)
                close(open_it(name, O_WRONLY | O_CREAT | O_EXCL));
            else
                check(!(step == 1 ? stat(name, &status) : unlink(name)), name);
        }
        say(words[step], began);
    }
}

/* PATH MIB PAGES FILES: FILES 0 for a device, which is used past all caches. */
int main(int count, char **words)
{
    int mib = atoi(words[2]), pages = atoi(words[3]), files = atoi(words[4]);
    int flags = files ? 0 : O_DIRECT;
    char path[256];

    check(count == 5, "usage");
    check(!posix_memalign((void **)&room, PAGE, BLOCK), "memory");
    memset(room, 'x', BLOCK);
    snprintf(path, sizeof path, files ? "%s/random" : "%s", words[1]);
    read_pages(path, flags, pages, mib * (BLOCK / PAGE));
    snprintf(path, sizeof path, files ? "%s/read" : "%s", words[1]);
    read_blocks(path, flags, mib);
    snprintf(path, sizeof path, files ? "%s/written" : "%s", words[1]);
    write_blocks(path, flags | (files ? O_CREAT : 0), mib);
    if (files)
        change_names(words[1], files);
    return 0;
}
"""

Seconds = Mapping[str, float]
"""By kinds of work: `write` and `read` blocks of 1 MiB, `random` pages of 4 KiB; `create`, `stat`, `unlink` files."""


def build_program(directory: Path) -> Path:
    """Compile the program that measures. Raise CalledProcessError, FileNotFoundError."""
    source, program = directory / "files.c", directory / "files"
    source.write_text(_PROGRAM)
    subprocess.run(["gcc", "-static", "-O2", "-o", program, source], check=True)
    return program


def time_share(runtime: Runtime, directory: Path, program: Path, mib: int, pages: int, files: int) -> Seconds:
    """Return the seconds of each kind of work on a directory of the host. Raise CalledProcessError."""
    volume = directory / "volume"
    volume.mkdir(parents=True)
    block = os.urandom(_BLOCK)
    for name in ("random", "read"):
        with (volume / name).open("wb") as file:
            for _ in range(mib):
                file.write(block)
    mount = {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]}
    words = ("files", "/volume", str(mib), str(pages), str(files))
    bundle = make_bundle(directory / "bundle", words, programs=(program,), mounts=(mount,))
    return _run(runtime, bundle)


def time_disk(runtime: Runtime, directory: Path, program: Path, device: str, mib: int, pages: int) -> Seconds:
    """Do the same with a block device of the host, of `mib` MiB at least."""
    words = ("files", DISK_PATH, str(mib), str(pages), "0")
    return _run(runtime, make_bundle(directory, words, programs=(program,), disk=describe_disk(device)))


def describe_disk(device: str) -> dict[str, Any]:
    """Return a block device of the host as OCI's `linux.devices` has it."""
    number = os.stat(device).st_rdev
    return {"path": DISK_PATH, "type": "b", "major": os.major(number), "minor": os.minor(number), "fileMode": 0o600}


@contextmanager
def attach_disk(backing: Path, mib: int) -> Iterator[str]:
    """Have a block device on a new file, and yield its node. Raise CalledProcessError without loop devices."""
    with backing.open("wb") as file:
        for _ in range(mib):
            file.write(bytes(_BLOCK))
    words = ["losetup", "--find", "--show", str(backing)]
    device = subprocess.run(words, check=True, capture_output=True, text=True, timeout=_TIMEOUT).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=_TIMEOUT)


def _run(runtime: Runtime, bundle: Path) -> Seconds:
    lines = [line.split() for line in read_output(runtime, bundle).splitlines()]
    return {name: float(seconds) for name, seconds in lines}
