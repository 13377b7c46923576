"""What holds for all tests: one thread each, and nobody's data folder."""

import os
from pathlib import Path

# Two processes of tests share two cores, and what they compute is too small to share: so also in what they start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest


@pytest.fixture(autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("JOINERY_DATA", str(folder))
    return folder
