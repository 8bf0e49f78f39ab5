"""`spec`: a config.json to start from."""

import json
import os

from kata.cli.invocation import Invocation
from kata.errors import ExistsError, UnsupportedError
from kata.protocol.oci.default import make_spec


def run_spec(invocation: Invocation) -> int:
    if invocation.switch("rootless"):
        raise UnsupportedError("spec --rootless: this runtime needs root on the host")
    path = os.path.join(invocation.text("bundle") or ".", "config.json")
    try:
        with open(path, "x") as file:
            json.dump(make_spec(["sh"]), file, indent="\t")
    except FileExistsError:
        raise ExistsError("File config.json exists. Remove it first") from None
    return 0
