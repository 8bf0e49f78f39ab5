"""What the agent is told at start: `agent.*` on the kernel command line, or the environment when it is not PID 1.

The names are upstream's; a name that this agent does not know is ignored, as upstream does.
"""

import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kata.errors import ConfigError

_TRUE, _FALSE = {"", "1", "true"}, {"0", "false"}
LEVELS = ("critical", "error", "warn", "info", "debug", "trace")


class Options(NamedTuple):
    """Times are in seconds, sizes in bytes, port 0 means none."""

    server_addr: str = "vsock://-1:1024"
    log_level: str = "info"
    log_vport: int = 0
    debug_console: bool = False
    debug_console_vport: int = 0
    devmode: bool = False
    hotplug_timeout: float = 10.0
    launch_process_timeout: float = 60.0
    container_pipe_size: int = 1 << 20


def _parse_flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("it is neither true nor false")


def _parse_level(text: str) -> str:
    level = {"warning": "warn"}.get(text.lower(), text.lower())
    if level not in LEVELS:
        raise ValueError(f"it is none of {', '.join(LEVELS)}")
    return level


def _parse_count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("it is not a number")
    return int(text)


def _parse_seconds(text: str) -> float:
    seconds = _parse_count(text)
    if not 0 < seconds <= 86400:
        raise ValueError("it is not between 1 and 86400 seconds")
    return float(seconds)


_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "agent.server_addr": ("server_addr", str),
    "agent.log": ("log_level", _parse_level),
    "agent.log_vport": ("log_vport", _parse_count),
    "agent.debug_console": ("debug_console", _parse_flag),
    "agent.debug_console_vport": ("debug_console_vport", _parse_count),
    "agent.devmode": ("devmode", _parse_flag),
    "agent.hotplug_timeout": ("hotplug_timeout", _parse_seconds),
    "agent.launch_process_timeout": ("launch_process_timeout", _parse_seconds),
    "agent.container_pipe_size": ("container_pipe_size", _parse_count),
}
_ENVIRONMENT = {"KATA_AGENT_SERVER_ADDR": "agent.server_addr", "KATA_AGENT_LOG_LEVEL": "agent.log"}


def parse_options(command_line: str, environment: Mapping[str, str]) -> Options:
    """Read the kernel's command line, then the environment, which wins. Raise ConfigError naming the option."""
    given: dict[str, str] = {}
    for word in shlex.split(command_line, posix=True):
        name, _, value = word.partition("=")
        given[name] = value
    given |= {option: environment[name] for name, option in _ENVIRONMENT.items() if name in environment}
    values: dict[str, Any] = {}
    for option, text in given.items():
        if option not in _OPTIONS:
            continue
        field, parse = _OPTIONS[option]
        try:
            values[field] = parse(text)
        except ValueError as error:
            raise ConfigError(f"the guest agent's option {option}={text} cannot be used: {error}") from error
    return Options(**values)


def read_options() -> Options:
    """The options of this process. The kernel's command line counts for PID 1 only."""
    command_line = ""
    if os.getpid() == 1:
        with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
            command_line = file.read()
    return parse_options(command_line, os.environ)
