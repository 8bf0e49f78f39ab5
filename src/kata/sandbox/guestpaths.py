"""Where the guest has what the host gives it. The names are upstream's."""

GUEST_SHARE = "/run/kata-containers/shared/containers"
GUEST_SHM = "/run/kata-containers/sandbox/shm"
GUEST_EPHEMERAL = "/run/kata-containers/sandbox/ephemeral"
GUEST_LOCAL = "/run/kata-containers/sandbox/local"
GUEST_VOLUMES = "/run/kata-containers/sandbox/storage"
GUEST_SCRATCH = "/run/kata-containers/sandbox/scratch"
"""emptyDirs on disks. Not upstream's."""

GUEST_PARTS = "/run/kata-containers/sandbox/parts"
"""Paths in ephemeral storages. Not upstream's."""

PUBLISHED = "watchable"
"""The directory of the share where the guest keeps copies of volumes, on a file system of its own."""
