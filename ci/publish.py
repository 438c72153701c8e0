"""Make a run fit to be shown: `python -m ci.publish RUN [--price 24] [--page]`.

Gathers in `_build/published/RUN` what others need to judge a run: the report, the manifest, the
metrics, the tokenizer and the executed notebooks, with no path of this machine in them. Weights
stay where they are. `--page` also makes a page of the book of it, in book/runs/, and lists it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from html import escape
from pathlib import Path

from ci._venv import BUILD, ROOT, ensure_venv

TEXT = (".json", ".jsonl", ".md", ".ipynb")
PARTS = (
    "report.json",
    "report.md",
    "manifest.json",
    "tokenizer.json",
    "metrics",
    "eval",
    "notebooks",
)
GPT2 = 0.256525  # CORE of GPT-2 XL
TOC_PART = "  - caption: Runs\n    chapters:\n"


def gather(run, target: Path) -> list[str]:
    """Copy what tells of a run to `target`, with this machine's paths masked; the files' names."""
    shutil.rmtree(target, ignore_errors=True)
    for name in PARTS:
        source = run.path / name
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        for file in files:
            if file.suffix not in TEXT:
                continue
            copy = target / file.relative_to(run.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(masked(file.read_text(encoding="utf-8")), encoding="utf-8")
    return sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())


def masked(text: str) -> str:
    """Text in which the places of this machine have general names."""
    from chatlib.runs import home

    places = {str(home()): "~/.cache/chatlib", str(ROOT): "~/book", str(Path.home()): "~"}
    for place, name in sorted(places.items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"{re.escape(place)}(?=[/\s\"'\\:]|$)", name, text)
    return text


def page(report: dict, rows: list[dict], price: float) -> str:
    """The run as a page of the book."""
    from chatlib.report import markdown

    body = markdown(report).split("\n", 1)[1].strip()
    parts = [f"# Run {report['run']}", body, "## The curve", f"```{{raw}} html\n{curve(rows)}\n```"]
    if report.get("core") is not None:
        passed = "passes" if report["core"] >= GPT2 else "does not pass"
        parts.append(
            f"CORE {report['core']:.4f}, which {passed} GPT-2's {GPT2}. This is one run; identical "
            "runs of the reference spanned .2512 to .2677."
        )
    if price:
        parts += ["## What it cost", costs(report["minutes"], price)]
    if report["samples"]:
        parts += ["## What it wrote on the way", samples(report["samples"])]
    system = report["system"]
    parts += [
        "## How to repeat it",
        f"```text\ngit checkout {system['git_commit']}\n"
        f"python -m ci.full_run --scale {report['scale']} --run {report['run']}\n```",
        f"Python {system['python']}, torch {system['torch']}, {system['platform']}.",
    ]
    return "\n\n".join(parts) + "\n"


def costs(minutes: dict[str, float], price: float) -> str:
    """Dollars by stage, at `price` an hour for the whole machine."""
    lines = ["| stage | minutes | dollars |", "|---|---|---|"]
    rows = [*minutes.items(), ("**total**", sum(minutes.values()))]
    lines += [f"| {name} | {spent:.1f} | {spent / 60 * price:.2f} |" for name, spent in rows]
    return "\n".join(lines)


def samples(rows: list[dict]) -> str:
    """What the model wrote early, halfway and at the end, as plain text."""
    chosen = [rows[0], rows[len(rows) // 2], rows[-1]]
    return "\n\n".join(f"Step {r['step']}:\n\n~~~~text\n{r['text']}\n~~~~" for r in chosen)


def curve(rows: list[dict]) -> str:
    """Bits per byte over the steps, as a drawing that takes the page's colors."""
    points = [(row["step"], row["val_bpb"]) for row in rows if row.get("val_bpb") is not None]
    (last, end), top = points[-1], max(value for _, value in points)
    width, height = 600, 180
    spots = " ".join(
        f"{40 + width * step / max(last, 1):.1f},{10 + height * (1 - value / top):.1f}"
        for step, value in points
    )
    label = escape(f"bits per byte fall from {points[0][1]:.2f} to {end:.3f} in {last:,} steps")
    frame = f'viewBox="0 0 680 230" role="img" aria-label="{label}"'
    return f"""<svg {frame} style="max-width: 44rem; width: 100%">
<g fill="none" stroke="var(--book-line)"><path d="M40 10V{10 + height}H{40 + width}"/></g>
<polyline points="{spots}" fill="none" stroke="var(--book-blue)" stroke-width="2.5"/>
<g fill="var(--book-ink)" font-size="13"><text x="4" y="18">{top:.1f}</text>
<text x="20" y="{14 + height}">0</text><text x="40" y="{30 + height}">{label}</text></g>
</svg>"""


def list_page(toc: str, name: str) -> str:
    """The table of contents with this run's page in the part for runs, once."""
    entry = f"      - file: book/runs/{name}\n"
    if entry in toc:
        return toc
    if TOC_PART in toc:
        return toc.replace(TOC_PART, TOC_PART + entry)
    back = "  - caption: Back matter\n"
    part = TOC_PART + entry
    return toc.replace(back, part + back) if back in toc else toc.rstrip("\n") + "\n" + part


def publish(name: str, price: float, with_page: bool) -> Path:
    """Gather the run called `name`, print what there is, and make its page."""
    from chatlib.report import write_report
    from chatlib.runs import Metrics, Run

    run = Run.open(name)
    if not (run.path / "report.json").exists():
        write_report(run)
    target = BUILD / "published" / name
    print(f"{len(gather(run, target))} files in {target}")
    report = json.loads((target / "report.json").read_text(encoding="utf-8"))
    text = page(report, Metrics(run.metrics_path("base")).rows(), price)
    (target / "page.md").write_text(text, encoding="utf-8")
    if with_page:
        file, toc = ROOT / "book" / "runs" / f"{name}.md", ROOT / "_toc.yml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        toc.write_text(list_page(toc.read_text(encoding="utf-8"), name), encoding="utf-8")
        print(f"a page of the book: {file}; see it with python -m ci.book --no-run")
    return target


def main(argv: list[str]) -> int:
    from chatlib.errors import ChatlibError

    parser = argparse.ArgumentParser(prog="python -m ci.publish", description=__doc__)
    parser.add_argument("run", help="the run's name")
    parser.add_argument(
        "--price", type=float, default=0, help="dollars an hour, all cards together"
    )
    parser.add_argument("--page", action="store_true", help="make a page of the book, too")
    args = parser.parse_args(argv)
    try:
        publish(args.run, args.price, args.page)
    except ChatlibError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
