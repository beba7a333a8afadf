"""What every doctest and every test finds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dni
import dni.distributed

torch.set_num_threads(1)  # small tensors gain nothing from more


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _examples_know_the_library(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(dni=dni, torch=torch)
