"""Core scheduling: threads of one group share a processor core's hyperthreads with each other only.

Source: Documentation/admin-guide/hw-vuln/core-scheduling.rst of the kernel.
"""

import errno

from kata.errors import HostError
from kata.sys import linux

_REASONS = {
    errno.EINVAL: "this kernel was built without CONFIG_SCHED_CORE",
    errno.ENODEV: "this machine has no hyperthreads",
}


def enter_new_core_group() -> None:
    """Give this process group a core group of its own, which children inherit. Raise HostError where there is none."""
    try:
        linux.prctl(linux.PR_SCHED_CORE, linux.PR_SCHED_CORE_CREATE, 0, linux.PIDTYPE_PGID)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise HostError(
            f"SCHED_CORE is set, but core scheduling cannot be had: {reason}",
            hint="take `sched_core`, or SCHED_CORE of `env`, out of containerd's configuration",
        ) from error
