"""`metrics`: the figures of one sandbox, as its management socket tells them to Prometheus."""

import asyncio
import sys

from kata.cli.invocation import Invocation
from kata.cli.records import find_sandbox_dir
from kata.cli.sandbox_id import find_sandbox
from kata.errors import GuestError
from kata.sandbox.management import SOCKET_NAME
from kata.transport.http import fetch

_TIMEOUT = 15.0


def run_metrics(invocation: Invocation) -> int:
    sandbox = find_sandbox(invocation.root, invocation.arguments[0])
    path = f"{find_sandbox_dir(invocation.root, sandbox)}/{SOCKET_NAME}"
    response = asyncio.run(fetch(path, "/metrics", f"sandbox {sandbox}", timeout=_TIMEOUT))
    text = response.body.decode(errors="replace")
    if response.status != 200:
        raise GuestError(f"sandbox {sandbox} does not tell its metrics: {text.strip()}")
    sys.stdout.write(text)
    return 0
