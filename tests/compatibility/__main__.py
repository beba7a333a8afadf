"""``python -m tests.compatibility``: run the matrix, write its page."""

import sys
from pathlib import Path

import pytest

from tests.compatibility.matrix import page

ROOT = Path(__file__).parents[2]
if code := pytest.main(["-q", str(Path(__file__).parent), "-k", "not the_page"]):
    sys.exit(code)
(ROOT / "docs" / "compatibility.rst").write_text(page())
