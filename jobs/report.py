"""Write the report page of a date: `python -m jobs.report --root ROOT --date YYYY-MM-DD`."""

import argparse
import os
import sys
from collections.abc import Sequence

from jobs.options import iso_date, leave
from pipelines.publish import PublishError
from pipelines.report import gather
from pipelines.report_page import render, render_dates
from transforms.io.store import Store, StoreError, open_store


def write_report(store: Store, day: str) -> str:
    """Write the page of a date whose road finished, and the list of all pages; return the page's place.

    Raises:
      ValueError: no road of that date finished under this root.
      PublishError: what names the overlays cannot be read.
    """
    path = f"reports/{day}/index.html"
    store.write_bytes(path, render(gather(store, day)).encode())
    pages = [p.split("/")[1] for p in store.list("reports") if p.count("/") == 2 and p.endswith("/index.html")]
    store.write_bytes("reports/index.html", render_dates(pages).encode())
    return f"{store.root}/{path}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and print its place; 0 when written, 1 when there is nothing to report on."""
    parser = argparse.ArgumentParser(prog="jobs.report", description="The report page of one date.")
    parser.add_argument("--root", default=os.environ.get("ROOT", ".segue"), help="folder or gs:// address of the run")
    parser.add_argument("--date", required=True, type=iso_date, help="logical date of a run that finished")
    options = parser.parse_args(argv)
    try:
        print(write_report(open_store(options.root), options.date.isoformat()))
    except (ValueError, StoreError, PublishError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
