"""What all tests share: no deadline per example, since machines are noisy and pytest-timeout bounds each test."""

import pytest
from hypothesis import settings

settings.register_profile("kata", deadline=None)
settings.load_profile("kata")

# Their tests are inherited by modules that pytest collects, so it does not look into them by itself.
pytest.register_assert_rewrite("cri.container_tests", "web_server_tests")
