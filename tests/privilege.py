"""Loud skips for tests that need the superuser."""

import os

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: mounts and cgroups cannot be made")
