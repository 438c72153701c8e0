"""Show the library's own source in a notebook, from the live object, never pasted.

    show_source(GPT.forward)                       one function or method
    show_source(GPT)                               a whole class
    show_source(GPT, "top", "__init__")            parts of a class: its head, one method
    show_source(tokenizer, "top")                  a module's docstring and imports
    show_source(tokenizer, "SPECIAL_TOKENS", "Tokenizer.encode")     parts of a module
    show_source("chatlib.fused_loss")              a module that may not be importable here
    show_cpp("decode.cpp", "attend")               a function of a C++ file

`python -m ci.shown` reads these calls and names the lines that no section shows.
"""

import ast
import inspect
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import chatlib
from chatlib.errors import ChatlibError

ROOT = Path(chatlib.__file__).parent.parent
MARK = "  # ◀"


@dataclass(frozen=True)
class Source:
    """Some lines of one file: `ranges` are (first, last), counted from 1."""

    path: Path
    ranges: tuple[tuple[int, int], ...]
    highlight: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The path as the reader knows it, from the repository's root."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def code(self) -> str:
        """The lines themselves, outdented; parts that do not touch are set apart by an ellipsis."""
        lines = self.path.read_text(encoding="utf8").splitlines()
        parts = ["\n".join(lines[first - 1 : last]) for first, last in self.ranges]
        text = inspect.cleandoc("\n" + "\n\n...\n\n".join(parts))
        for fragment in self.highlight:
            if fragment not in text:
                raise ChatlibError(f"There is no {fragment!r} to highlight in {self.file}.")
        return "\n".join(
            line + MARK if any(fragment in line for fragment in self.highlight) else line
            for line in text.split("\n")
        )

    @property
    def caption(self) -> str:
        spans = [f"{first}–{last}" for first, last in self.ranges]
        return f"{self.file}, lines {', '.join(spans)}"

    def __repr__(self) -> str:
        return f"# {self.caption}\n{self.code}"

    def _repr_markdown_(self) -> str:
        language = "python" if self.path.suffix == ".py" else "cpp"
        return f"```{language}\n{self.code}\n```\n\n*{self.caption}*"


def show_source(obj: object, *names: str, highlight: str | tuple[str, ...] = ()) -> Source:
    """The source of a module, class, function or method of chatlib, or of the named parts of one.

    `names` pick parts of a module or class: functions, classes, `Class.method`, assigned names, or
    "top" for what comes before the first of them. Lines that contain a `highlight` are marked.
    """
    obj = inspect.unwrap(obj.fget if isinstance(obj, property) else obj)
    if isinstance(obj, str):
        path, prefix = Path(find_spec(obj).origin), ""
    elif inspect.ismodule(obj):
        path, prefix = Path(obj.__file__), ""
    else:
        path, prefix = Path(sys.modules[obj.__module__].__file__), obj.__qualname__
    parts = source_parts(path.read_text(encoding="utf8"))
    wanted = [f"{prefix}.{name}".strip(".") for name in names] or [prefix]
    if wanted == [""]:
        ranges = [(1, max(last for _, last in parts.values()))]
    else:
        for name in wanted:
            if name not in parts:
                raise ChatlibError(f"{path.name} has no part named {name!r}.")
        ranges = [parts[name] for name in wanted]
    lines = path.read_text(encoding="utf8").splitlines()
    highlight = (highlight,) if isinstance(highlight, str) else tuple(highlight)
    return Source(path, tuple(_joined(ranges, lines)), highlight)


def show_cpp(file: str, *names: str) -> Source:
    """Functions and structures, each with the comment above it, of a C++ file of chatlib.

    "top" is what comes before the first structure.
    """
    path = ROOT / "chatlib" / file
    lines = path.read_text(encoding="utf8").splitlines()
    ranges = []
    for name in names:
        begins = re.compile(r"struct " if name == "top" else rf"\S.*\b{name}(\(| \{{)")
        first = next((i for i, line in enumerate(lines) if begins.match(line)), None)
        if first is None:
            raise ChatlibError(f"{path.name} has no part named {name!r}.")
        last = next(i for i in range(first, len(lines)) if lines[i].startswith("}"))
        while lines[first - 1].startswith(("//", "template")):
            first -= 1
        ranges.append((1, _last_full(lines, first)) if name == "top" else (first + 1, last + 1))
    return Source(path, tuple(_joined(ranges, lines)))


def source_parts(text: str) -> dict[str, tuple[int, int]]:
    """The (first, last) lines of every named part of a file.

    A part begins at its comments and decorators. What has no name of its own (an `if`, a call)
    belongs to the part before it, so that every line belongs to some part.
    """
    tree = ast.parse(text)
    lines = text.splitlines()
    parts = _parts_of(tree.body, lines, first=1, last=_last_full(lines, len(lines)), prefix="")
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            first, last = parts[node.name]
            parts |= _parts_of(node.body, lines, first, last, prefix=f"{node.name}.")
    return parts


def _parts_of(body, lines: list[str], first: int, last: int, prefix: str) -> dict:
    starts = {"top": first}
    for node in body:
        for name in _names_of(node, in_class=bool(prefix)):
            decorators = [d.lineno for d in getattr(node, "decorator_list", [])]
            start = min([node.lineno, *decorators])
            while start > first + 1 and lines[start - 2].strip().startswith("#"):
                start -= 1
            starts.setdefault(name, start)
    ends = sorted({start - 1 for start in starts.values() if start > first} | {last})
    parts = {}
    for name, start in starts.items():
        end = next(end for end in ends if end >= start)
        parts[prefix + name] = (start, _last_full(lines, end))
    if list(starts.values()).count(first) > 1:  # nothing comes before the first name
        del parts[prefix + "top"]
    return parts


def _names_of(node: ast.stmt, in_class: bool) -> list[str]:
    """The names that a statement gives to a part: fields of a class stay with its top."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if in_class:
        return []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        targets = []
    flat = [t for target in targets for t in getattr(target, "elts", [target])]
    return [target.id for target in flat if isinstance(target, ast.Name)]


def _last_full(lines: list[str], end: int) -> int:
    while end > 1 and not lines[end - 1].strip():
        end -= 1
    return end


def _joined(ranges: list[tuple[int, int]], lines: list[str]) -> list[tuple[int, int]]:
    """In the order of the file; those with only blank lines between them as one."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(set(ranges)):
        if joined and not any(line.strip() for line in lines[joined[-1][1] : first - 1]):
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined
