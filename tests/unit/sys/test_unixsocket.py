import os
from pathlib import Path

import pytest

from kata.sys.unixsocket import connect_unix, listen_unix


def test_a_path_longer_than_the_kernels_field_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    path = str(deep / "s.sock")
    with listen_unix(path) as server, connect_unix(path) as client:
        client.sendall(b"x")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b"x"
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_what_a_crash_left_at_the_path_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    listen_unix(path).close()
    with pytest.raises(ConnectionRefusedError):
        connect_unix(path)
    with listen_unix(path), connect_unix(path):
        pass
