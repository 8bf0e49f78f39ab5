"""`features`: what this runtime implements, for engines to read."""

import json

from kata import __version__
from kata.cli.invocation import Invocation
from kata.protocol.oci.features import describe_features


def run_features(_invocation: Invocation) -> int:
    print(json.dumps(describe_features(__version__), indent=4))
    return 0
