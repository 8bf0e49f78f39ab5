"""Every TCP port of a namespace's localhost, taken by one listening socket for each family.

There is neither a listener for each port nor address translation, and an accepted socket's own address tells the port
that was dialled. Other addresses of 127.0.0.0/8 are left to whoever the engine has listen there, such as Docker's name
server.
"""

import os
import socket
from contextlib import ExitStack

from kata.errors import UnsupportedError
from kata.protocol.netlink.notation import parse_ip
from kata.transport.socketlookup import Destination, take_destinations

_BACKLOG = 64


class LoopbackListener:
    """Listens on 127.0.0.1 and ::1 of the calling thread's namespace until `close`.

    `sockets` are not blocking; there is no second one where the kernel has no IPv6. Raise UnsupportedError where the
    kernel does not let sockets be chosen so.
    """

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self._taken: int | None = None
        with ExitStack() as undo:
            undo.callback(self.close)
            try:
                self._taken = take_destinations(self._listen())
            except OSError as error:
                raise UnsupportedError(
                    f"the ports of the pod's loopback interface cannot be taken: {error.strerror}",
                    hint="port-forward then reaches no server; it needs a kernel with CONFIG_BPF_SYSCALL",
                ) from error
            undo.pop_all()

    def _listen(self) -> list[tuple[Destination, socket.socket]]:
        rows = []
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                listener = socket.create_server((address, 0), family=family, backlog=_BACKLOG)
            except OSError:
                if family == socket.AF_INET:
                    raise
                continue
            listener.setblocking(False)
            self.sockets.append(listener)
            rows.append((Destination(socket.IPPROTO_TCP, parse_ip(address)), listener))
        return rows

    def close(self) -> None:
        """Give the ports back and close the listeners. May be called again."""
        if self._taken is not None:
            os.close(self._taken)
            self._taken = None
        for listener in self.sockets:
            listener.close()
        self.sockets.clear()
