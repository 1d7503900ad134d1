import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets and published schemas: SEGUE_DATA, or ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SEGUE_DATA", beside))
    if folder.is_dir():
        return folder
    reason = f"NO DATA: {folder} is not a folder; set SEGUE_DATA to the folder of data sets"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
