"""The cache and the host of the sample file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from filehost import FileHost, hosting
from samplefile import CONTENT, PATH, Told

from artifact.sources import download
from artifact.sources.download import Patience


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileHost]:
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KLOC_MIRROR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "PATIENCE", Patience(stall_seconds=10, tries=3, first_wait=0.01, longest_wait=1.5))
    with hosting() as serving:
        serving.files[PATH] = CONTENT
        serving.etags[PATH] = '"one"'
        yield serving


@pytest.fixture
def told() -> Told:
    return Told()
