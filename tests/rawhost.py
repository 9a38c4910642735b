"""A host on loopback that answers with whatever bytes a test gives it, for answers that no HTTP library would send."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Answer = Callable[[socket.socket, bytes], None]


class RawHost:
    """Calls `answer` with each connection and what was asked on it; `asked` collects that."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.asked: list[bytes] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def run(self) -> None:
        """Serve until the host is closed."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            asked = b""
            while b"\r\n\r\n" not in asked and not asked.startswith(b"\x16"):  # the beginning of TLS
                block = connection.recv(65536)
                if not block:
                    return
                asked += block
            self.asked.append(asked)
            self._answer(connection, asked)

    def close(self) -> None:
        """Take no more connections; an answer without end ends when its client does."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextmanager
def answering(answer: Answer | bytes) -> Iterator[RawHost]:
    """A host that gives `answer` to everything asked, until the block ends."""
    given = answer if callable(answer) else lambda connection, asked: connection.sendall(answer)
    host = RawHost(given)
    thread = threading.Thread(target=host.run, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.close()
        thread.join(5)
