"""What a process does, as the system sees it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def listening(pid: int) -> dict[str, str]:
    """Sockets on which it takes connections, its own or shared, and at which addresses.

    An address is written as in /proc: ``0100007F:1F90`` is 127.0.0.1:8080.
    """
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    addresses = {f"socket:[{words[9]}]": words[1] for words in lines if words[3] == "0A"}
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(descriptor))
    return {socket: address for socket, address in addresses.items() if socket in found}
