"""Serve the store where stages of several machines meet.

Run ``python -m dni.distributed.serve --host 10.0.0.1 --port 29400`` on one of them; it listens at
that address alone, and ends on a signal.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from contextlib import suppress

from dni.distributed.stores import serve_store

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Serve the store where stages meet.")
    parser.add_argument("--host", default="127.0.0.1", help="the address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=29400, help="its port (default: %(default)s)")
    said = parser.parse_args(arguments)
    store, url = serve_store(said.host, said.port)
    print(f"DNI_STORE={url}", flush=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    del store  # it serves as long as it is held


if __name__ == "__main__":
    main()
