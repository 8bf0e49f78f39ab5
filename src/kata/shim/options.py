"""The runtime's options in containerd's configuration: which configuration file a sandbox has."""

import os

from kata.errors import ProtocolError, UsageError
from kata.protocol.messages.google import Any
from kata.protocol.messages.task import OPTIONS_TYPE, Options

VARIABLE = "KATA_CONF_FILE"


class ConfigChoice:
    """Chooses by what the shim was started with; a call's own options come before that."""

    def __init__(self, flavour: str, options: bytes) -> None:
        """`flavour` is what the program's name adds; `options` an encoded `google.protobuf.Any`, or empty.

        Raise UsageError where it is none.
        """
        self._flavour = flavour
        try:
            self._options = Any.decode(options) if options else None
        except ProtocolError as error:
            raise UsageError(f"the runtime's options on standard input cannot be read: {error}") from error

    def find(self, options: Any | None, directory: str | None) -> str | None:
        """Return the configuration's path, None where there is none. A body is written to a file of `directory`.

        In order: ConfigPath, ConfigBody, the environment's KATA_CONF_FILE, the file of the flavour, the usual places.
        Raise UsageError for a body where there is no directory for it.
        """
        for packed in (options, self._options):
            if packed is not None and packed.type_url.rpartition("/")[2] == OPTIONS_TYPE:
                chosen = Options.decode(packed.value)
                if chosen.config_path:
                    return chosen.config_path
                if chosen.config_body:
                    if directory is None:
                        raise UsageError("the configuration is in the runtime's options, and in no file")
                    return _write_body(f"{directory}/configuration.toml", chosen.config_body)
        if path := os.environ.get(VARIABLE):
            return path
        from kata.config.place import find_config  # noqa: PLC0415 - brings the model of all options

        return find_config(self._flavour)


def _write_body(path: str, body: bytes) -> str:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(body)
    return path
