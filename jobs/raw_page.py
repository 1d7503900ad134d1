"""Fill in the tables of the page on raw folders: `python -m jobs.raw_page` writes, `--check` judges."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from schemas.catalogue import CONTRACTS
from schemas.documentation import given_table
from transforms.ingest import FILLED

PAGE = Path(__file__).parents[1] / "docs" / "raw-events.md"
_TABLE = re.compile(r"(<!-- columns of (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def fill_tables(page: str) -> str:
    """Return the page with every table as its contract generates it.

    Raises:
      ValueError: the page asks for the columns of an unknown contract.
    """
    unknown = sorted({name for _, name, _ in _TABLE.findall(page)} - set(CONTRACTS))
    if unknown:
        raise ValueError(f"the page asks for the columns of {', '.join(unknown)}; contracts are {', '.join(CONTRACTS)}")
    return _TABLE.sub(lambda found: found[1] + given_table(CONTRACTS[found[2]], FILLED) + found[3], page)


def main(argv: Sequence[str] | None = None, page: Path = PAGE) -> int:
    """Write the page, or with `--check` return 1 if it is not what the contracts generate."""
    parser = argparse.ArgumentParser(prog="python -m jobs.raw_page", description="The page on raw folders.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is not current")
    check, text = parser.parse_args(argv).check, page.read_text(encoding="utf-8")
    filled = fill_tables(text)
    if check and filled != text:
        print(
            f"{page.parent.name}/{page.name} is not what the contracts generate: run `make contracts`", file=sys.stderr
        )
        return 1
    if filled != text:
        page.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
