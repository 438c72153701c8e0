"""What the tests in a browser share; `browser` itself is a fixture of conftest.py."""

import json
import os
from pathlib import Path

SHOTS = os.environ.get("CHATLIB_SCREENSHOTS")  # a folder, to look at what the tests saw
ALONE = """<!doctype html><meta charset=utf-8><style>{css}</style><div id=w></div><script>
const [code, data, alt] = {told};
import(URL.createObjectURL(new Blob([code], {{type: "text/javascript"}}))).then((m) => {{
  {after_import}
  const model = {{get: (name) => ({{data, alt}})[name]}};
  m.default.render({{model, el: document.getElementById("w")}});
  window.ready = true;
}});
</script>"""


def widget_page(browser, widget, folder: Path, after_import: str = ""):
    """A page with a widget alone, opened as a file and without a network.

    after_import: JavaScript that may use the widget's module, `m`, and its `data`.
    """
    told = json.dumps([widget._esm, widget.data, widget.alt]).replace("<", "\\u003c")
    path = folder / "page.html"
    path.write_text(ALONE.format(css=widget._css, told=told, after_import=after_import), "utf8")
    page = browser.new_context(offline=True).new_page()
    page.goto(path.as_uri())
    page.wait_for_function("window.ready")
    return page


def complaints(page) -> list[str]:
    """The page's errors: a list that grows with each one that comes."""
    heard: list[str] = []
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("console", lambda m: heard.append(m.text) if m.type == "error" else None)
    return heard


def scrolls_sideways(page) -> bool:
    return page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )


def fits_a_phone(page) -> bool:
    page.set_viewport_size({"width": 390, "height": 900})
    return not scrolls_sideways(page)


def shot(page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))
