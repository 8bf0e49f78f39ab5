"""What all tests share: no deadline per example, since machines are noisy and pytest-timeout bounds each test."""

from hypothesis import settings

settings.register_profile("kata", deadline=None)
settings.load_profile("kata")
