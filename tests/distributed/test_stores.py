"""Where stages meet: at the address that was named, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dni.distributed import open_store, serve_store


def test_a_file_is_a_store(tmp_path: Path) -> None:
    one, other = (open_store(f"file://{tmp_path}/store") for _ in range(2))
    one.set("key", "value")
    assert other.get("key") == b"value"


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "run#1?"
    folder.mkdir()
    for url in (f"file://{folder}/store", f"file:{folder}/store"):
        open_store(url).set("key", "value")
    assert [path.name for path in folder.iterdir()] == ["store"]


def test_a_served_store_listens_on_loopback_alone() -> None:
    store, url = serve_store()
    port = int(url.rsplit(":", 1)[1])
    assert url == f"tcp://127.0.0.1:{port}"
    open_store(url).set("key", "value")
    assert store.get("key") == b"value"
    assert listening(port) == {"0100007F"}


def listening(port: int) -> set[str]:
    """The addresses, as /proc writes them, at which something listens on ``port``."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {
        line[1].split(":")[0]
        for line in lines
        if line[3] == "0A" and int(line[1].split(":")[1], 16) == port
    }


def test_another_address_has_to_be_named_and_warns() -> None:
    with pytest.warns(UserWarning, match=r"a store at 0\.0\.0\.0 can be reached from other mach"):
        serve_store("0.0.0.0")


@pytest.mark.parametrize(
    "url",
    ["", "store", "file://store", "file://host/store", "tcp://localhost", "tcp://localhost:x",
     "tcp://:29400", "http://localhost:80", "tcp://localhost:29400/path"],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected a store such as file:///tmp/run/store or tcp:"):
        open_store(url)


def test_import_dni_does_not_import_stages() -> None:
    code = "import sys, dni; sys.exit('dni.distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
