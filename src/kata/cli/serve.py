"""`serve`: what the command line starts as the daemon of a sandbox."""

import os

from kata.cli.invocation import Invocation


def run_serve(invocation: Invocation) -> int:
    from kata.sys.deferred import defer_modules  # noqa: PLC0415 - the only command with an event loop

    defer_modules()
    from kata.sandbox.service import serve  # noqa: PLC0415 - the only command that serves

    service, init = invocation.number("service-fd"), invocation.number("init-fd")
    network = invocation.number("network-fd")
    assert service is not None
    assert init is not None
    os.chdir("/")  # whoever unmounts the engine's directory must not find it busy
    code: int = serve(
        root=invocation.root,
        sandbox=invocation.text("sandbox"),
        bundle=invocation.text("bundle"),
        service_fd=service,
        init_fd=init,
        network_fd=network if network is not None else -1,
        creator=invocation.number("creator") or 0,
        origin=invocation.text("origin"),
        copy=invocation.switch("copy"),
        config=str(invocation.globals["config"] or invocation.globals["kata-config"]) or None,
    )
    return code
