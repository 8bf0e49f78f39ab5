from engine_fixtures import _leave_nothing, engine, guest_image, pytest_runtest_makereport

__all__ = ["_leave_nothing", "engine", "guest_image", "pytest_runtest_makereport"]
