"""The guest's agent: PID 1 of the VM, or a plain process in tests."""

import asyncio
import os
import signal
import sys

from kata.agent.options import Options, read_options


def main() -> None:
    """Run until the host destroys the sandbox. As PID 1, then power off."""
    first = os.getpid() == 1
    try:
        if first:
            from kata.agent.boot import boot  # noqa: PLC0415 - PID 1 only

            boot()
        asyncio.run(_serve(read_options()))
    except Exception as error:  # noqa: BLE001 - PID 1 has nobody to raise to, and an end without a word helps nobody
        print(f"kata-agent: fatal: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if not first:
            raise SystemExit(1) from error
    if first:
        from kata.sys.power import power_off  # noqa: PLC0415 - PID 1 only

        power_off()


async def _serve(options: Options) -> None:
    from kata.agent.channel import serve  # noqa: PLC0415 - after boot: what is imported late cannot delay the mounts
    from kata.agent.guest import Guest  # noqa: PLC0415 - the same

    guest = Guest(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, guest.finish)
    try:
        server = asyncio.create_task(serve(options.server_addr, guest.make_connection))
        finished = asyncio.create_task(guest.finished.wait())
        done, _ = await asyncio.wait({server, finished}, return_when=asyncio.FIRST_COMPLETED)
        if server in done:
            server.result()
        await guest.say_goodbye()
        server.cancel()
    finally:
        guest.close()


if __name__ == "__main__":
    main()
