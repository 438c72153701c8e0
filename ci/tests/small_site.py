"""A book small enough to be built by a test: the real settings, styles and first page."""

import re
from pathlib import Path

from ci import book


def small_site(folder: Path, *pages: str) -> Path:
    """Put the book's sources in `folder`, cut to the first page and `pages`; links to others go."""
    book.assemble(folder, executed=None)
    index = folder / "book" / "index.md"
    text = re.sub(r"{doc}`([^<`]+) <[^>`]+>`", r"\1", index.read_text(encoding="utf-8"))
    index.write_text(text, encoding="utf-8")
    toc = "format: jb-book\nroot: book/index\nchapters:\n"
    (folder / "_toc.yml").write_text(toc + "".join(f"- file: {page}\n" for page in pages))
    return folder
