"""What the agent reads from the kernel's command line and its environment."""

import pytest

from kata.agent.options import Options, parse_options
from kata.errors import ConfigError


def test_nothing_said_means_the_defaults() -> None:
    assert parse_options("console=ttyS0 quiet root=/dev/vda ro", {}) == Options()


def test_every_option_is_read() -> None:
    line = (
        "agent.server_addr=vport://1024 agent.log=debug agent.log_vport=1025 agent.debug_console "
        "agent.debug_console_vport=1026 agent.devmode=true agent.hotplug_timeout=9 agent.launch_process_timeout=7 "
        "agent.container_pipe_size=65536"
    )

    assert parse_options(line, {}) == Options("vport://1024", "debug", 1025, True, 1026, True, 9.0, 7.0, 65536)


def test_options_of_features_that_this_agent_lacks_are_ignored() -> None:
    assert parse_options("agent.cdh_api_timeout=50 agent.mem_agent_enable=1 agent.unheard_of", {}) == Options()


def test_the_last_of_two_counts_and_the_environment_over_both() -> None:
    line = "agent.log=warn agent.log=error"

    assert parse_options(line, {}).log_level == "error"
    assert parse_options(line, {"KATA_AGENT_LOG_LEVEL": "trace"}).log_level == "trace"


@pytest.mark.parametrize(
    "word",
    ["agent.log=loud", "agent.hotplug_timeout=0", "agent.hotplug_timeout=-1", "agent.log_vport=x", "agent.devmode=so"],
)
def test_a_value_that_makes_no_sense_is_named(word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse_options(word, {})
