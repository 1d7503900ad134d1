"""Write the report page of a date."""

from transforms.io.store import Store


def write_report(store: Store, day: str) -> str:
    """Write the page and return its place."""
    return f"{store.root}/reports/{day}/index.html"
