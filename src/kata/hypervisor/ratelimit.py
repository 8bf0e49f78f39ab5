"""How much a VM's disks and network cards may move, as VMMs limit it by themselves: token buckets.

Cloud Hypervisor and Firecracker describe them alike: a bucket of `size` tokens that fills within `refill_time`
milliseconds, and `one_time_burst` of them at the start; `bandwidth` counts bytes, `ops` requests.
"""

from typing import Any, NamedTuple

from kata.config.model import HypervisorConfig

_SECOND = 1000
_BITS = 8


class RateLimit(NamedTuple):
    """Of each disk, or of each direction of each network card. 0: no limit; a burst is granted once."""

    bytes_a_second: int = 0
    burst_bytes: int = 0
    requests_a_second: int = 0
    burst_requests: int = 0


NO_LIMIT = RateLimit()


class RateLimits(NamedTuple):
    """Those of a VM."""

    disk: RateLimit = NO_LIMIT
    net: RateLimit = NO_LIMIT


UNLIMITED = RateLimits()


def read_limits(config: HypervisorConfig) -> RateLimits:
    """The limits of a configuration, which counts bits."""
    return RateLimits(
        RateLimit(
            config.disk_rate_limiter_bw_max_rate // _BITS,
            config.disk_rate_limiter_bw_one_time_burst // _BITS,
            config.disk_rate_limiter_ops_max_rate,
            config.disk_rate_limiter_ops_one_time_burst,
        ),
        RateLimit(
            config.net_rate_limiter_bw_max_rate // _BITS,
            config.net_rate_limiter_bw_one_time_burst // _BITS,
            config.net_rate_limiter_ops_max_rate,
            config.net_rate_limiter_ops_one_time_burst,
        ),
    )


def describe_limit(key: str, limit: RateLimit) -> dict[str, Any]:
    """The field `key` of a device's description; nothing without a limit."""
    buckets = {}
    if limit.bytes_a_second:
        buckets["bandwidth"] = _describe_bucket(limit.bytes_a_second, limit.burst_bytes)
    if limit.requests_a_second:
        buckets["ops"] = _describe_bucket(limit.requests_a_second, limit.burst_requests)
    return {key: buckets} if buckets else {}


def _describe_bucket(rate: int, burst: int) -> dict[str, int]:
    bucket = {"size": rate, "refill_time": _SECOND}
    return {**bucket, "one_time_burst": burst} if burst else bucket
