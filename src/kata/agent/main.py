"""The guest's agent: PID 1 of the VM, or a plain process in tests."""

import asyncio
import os
import signal
import sys
import time
from contextlib import closing

from kata.agent.options import Options, read_options
from kata.agent.spans import SPANS


def main(began: int = 0) -> None:
    """Run until the host destroys the sandbox. As PID 1, then power off.

    `began` is when the interpreter ran its first line, in nanoseconds of the monotonic clock.
    """
    first = os.getpid() == 1
    if began:
        SPANS.note("kernel", 0, began)
        SPANS.note("agent's imports", began, time.monotonic_ns())
    try:
        if first:
            from kata.agent.boot import boot  # noqa: PLC0415 - PID 1 only

            with SPANS.measure("mounts and cgroups"):
                boot()
        # Not asyncio.run: it takes SIGINT first, and replacing that handler makes signal.signal describe it, which
        # loads all that the agent does without.
        with closing(asyncio.new_event_loop()) as loop:
            loop.run_until_complete(_serve(read_options()))
    except Exception as error:
        print(f"kata-agent: fatal: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if not first:
            raise SystemExit(1) from error
    if first:
        from kata.sys.power import power_off  # noqa: PLC0415 - PID 1 only

        power_off()


async def _serve(options: Options) -> None:
    with SPANS.measure("agent's parts"):
        from kata.agent.guest import Guest  # noqa: PLC0415 - after boot: imported late it cannot delay the mounts

        guest = Guest(options)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, guest.finish)
    try:
        await guest.serve()
    finally:
        guest.close()


if __name__ == "__main__":
    main()
