"""Sphinx extension: pages that ask nothing of the network, and figures with alternative text."""

import re
import shutil
from importlib import metadata
from pathlib import Path

from docutils import nodes


def copy_mathjax(app, exception) -> None:
    """MathJax and its fonts come from an installed package, not from a CDN."""
    if exception is not None or app.builder.format != "html":
        return
    package = metadata.distribution("sphinx-mathjax-offline")
    source = Path(package.locate_file("sphinx-mathjax-offline/static/mathjax"))
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tex-mml-chtml.js", target)
    fonts = "output/chtml/fonts/woff-v2"
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)


def drop_thebe(app) -> None:
    """sphinx-thebe writes the address of a CDN into every page; the book does not use it."""
    for event in ("env-before-read-docs", "doctree-resolved", "builder-inited"):
        for listener in list(app.events.listeners.get(event, ())):
            if getattr(listener.handler, "__module__", "").startswith("sphinx_thebe"):
                app.disconnect(listener.id)


def describe_figures(app, doctree, docname) -> None:
    """An SVG that says in its <title> what it shows lends its page that alternative text."""
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir) / image["uri"]
        if image.get("alt") or path.suffix != ".svg" or not path.exists():
            continue
        title = re.search(r"<title>(.*?)</title>", path.read_text(encoding="utf8"), re.DOTALL)
        if title:
            image["alt"] = " ".join(title[1].split())


def setup(app) -> dict:
    app.connect("builder-inited", drop_thebe, priority=1)
    app.connect("doctree-resolved", describe_figures)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
