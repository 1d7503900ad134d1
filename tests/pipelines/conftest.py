import pytest
from small_road import SmallRoad

from transforms.io.store import Store, open_store


@pytest.fixture
def store(copy_road: SmallRoad) -> Store:
    """The root of a published road, to be changed."""
    return open_store(str(copy_road.root))
