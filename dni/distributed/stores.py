"""Where stages find each other: a store of keys and values that all of them can reach.

On one machine it is a file. Between machines it is PyTorch's TCP store, which, like everything
in c10d, asks nobody who they are: whoever reaches its port may read and write. It is opened only
at the address that was named; for any but the loopback address, a warning says what that means.
"""

from __future__ import annotations

import ipaddress
import socket
from datetime import timedelta
from urllib.parse import urlsplit

from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

from dni import _checks

__all__ = ["open_store", "serve_store"]

PATIENCE = timedelta(seconds=60)


def open_store(url: str) -> Store:
    """The store at ``url``: ``file:///a/path``, or ``tcp://host:port`` where one is served.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = dni.distributed.open_store(f"file://{folder}/store")
        ...     store.set("key", "value")
        ...     store.get("key")
        b'value'
    """
    parts = urlsplit(url)
    _checks.store_url(url, parts.scheme, parts.path, parts.hostname, _port(url))
    if parts.scheme == "file":
        return FileStore(
            url[len("file:") :].removeprefix("//")
        )  # the path as it is, with any "#" and "?" in it
    assert parts.hostname is not None
    assert parts.port is not None
    if not _loopback(parts.hostname):
        _checks.beyond_loopback(f"the store {url}")
    return TCPStore(parts.hostname, parts.port, timeout=PATIENCE, wait_for_workers=False)


def serve_store(host: str = "127.0.0.1", port: int = 0) -> tuple[Store, str]:
    """Serve a TCP store at exactly one address; it lives as long as the returned store.

    Left to itself, PyTorch's store listens on every interface of the machine, whatever host it is
    given. So it is handed a socket that listens on this address.

    Returns:
        the store, and its URL.

    Example:
        >>> store, url = dni.distributed.serve_store()
        >>> dni.distributed.open_store(url).set("key", "value")
        >>> store.get("key")
        b'value'
    """
    if not _loopback(host):
        _checks.beyond_loopback(f"a store at {host}")
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.create_server((host, port), family=family)
    port = listener.getsockname()[1]
    store = TCPStore(
        host, port, is_master=True, timeout=PATIENCE, wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )  # fmt: skip
    return store, f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:  # not a number, or not that of a port
        return None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def interface_of_loopback() -> str:
    """The name of the loopback network interface: ``lo``, or ``lo0``."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name in ("lo", "lo0")), "lo")
