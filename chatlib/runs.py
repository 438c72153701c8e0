"""Where a run keeps its things: one folder a run, one manifest, one metrics file a stage.

<home>/runs/<run>/manifest.json             what was run, on what, with which versions
                  tokenizer.json
                  base|sft|rl/step_000123/  checkpoints
                  metrics/<stage>.jsonl     one line a logged step
                  notebooks/                executed notebooks
                  report.json  report.md
"""

import contextlib
import errno
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from chatlib import __version__
from chatlib.errors import ChatlibError

STAGES = ("base", "sft", "rl")


def home() -> Path:
    """The folder for everything chatlib writes: `CHATLIB_HOME`, else `~/.cache/chatlib`."""
    return Path(os.environ.get("CHATLIB_HOME") or "~/.cache/chatlib").expanduser()


@contextlib.contextmanager
def writing(path: Path, setting: str = "CHATLIB_HOME") -> Iterator[None]:
    """Turn the operating system's refusals to write under `path` into one sentence."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ChatlibError(
            f"{'No space is left for' if full else 'You may not write to'} {path}: set {setting} "
            "to a folder with space that is yours, and give the same command again."
        ) from error


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Write `data` so that a reader, or a crash, finds the old file or the new one, never half."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


class Run:
    """One run's folder. Make it with `Run.create_or_open`, find it with `open` or `latest`."""

    def __init__(self, name: str):
        self.name = name
        self.path = home() / "runs" / name
        self.tokenizer_path = self.path / "tokenizer.json"
        self.notebooks_dir = self.path / "notebooks"

    @staticmethod
    def names() -> list[str]:
        """The runs there are, the one changed last at the end."""
        manifests = (home() / "runs").glob("*/manifest.json")
        return [m.parent.name for m in sorted(manifests, key=lambda m: m.stat().st_mtime_ns)]

    @classmethod
    def create_or_open(cls, name: str, scale_name: str | None = None) -> "Run":
        """Open run `name`, making it first if need be; a run keeps the scale it was made at."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ChatlibError(
                f"{name!r} cannot name a run: use up to 64 letters, digits, dots, dashes and "
                "underscores, the first of them a letter or a digit."
            )
        run = cls(name)
        if name not in cls.names():
            made = {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "system": system_info()}
            run._write({"name": name, "scale": scale_name} | made)
        elif scale_name and scale_name != run.manifest["scale"]:
            raise ChatlibError(
                f"Run {name!r} was made at scale {run.manifest['scale']!r}, not {scale_name!r}: "
                "choose another name for the new run."
            )
        return run

    @classmethod
    def open(cls, name: str) -> "Run":
        """Open a run that exists."""
        if name not in cls.names():
            known = ", ".join(cls.names()) or "none yet"
            raise ChatlibError(f"There is no run {name!r} in {home() / 'runs'} (runs: {known}).")
        return cls(name)

    @classmethod
    def latest(cls) -> "Run":
        """The run whose manifest changed last."""
        if not cls.names():
            raise ChatlibError(
                f"There is no run in {home() / 'runs'} yet: train one first, for example with "
                "`python -m chatlib pretrain --scale laptop`."
            )
        return cls(cls.names()[-1])

    @property
    def manifest(self) -> dict[str, Any]:
        """What `manifest.json` says now."""
        path = self.path / "manifest.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ChatlibError(f"{path} cannot be read: delete that run's folder.") from error

    def update_manifest(self, **entries: Any) -> None:
        """Add or replace top-level entries of the manifest."""
        self._write(self.manifest | entries)

    def _write(self, manifest: dict[str, Any]) -> None:
        atomic_write(self.path / "manifest.json", json.dumps(manifest, indent=2) + "\n")

    def stage_dir(self, stage: str) -> Path:
        """The folder of a stage's checkpoints."""
        if stage not in STAGES:
            raise ChatlibError(f"There is no stage {stage!r}: the stages are {', '.join(STAGES)}.")
        return self.path / stage

    def metrics_path(self, stage: str) -> Path:
        """The file of a stage's metrics."""
        return self.path / "metrics" / f"{self.stage_dir(stage).name}.jsonl"

    @contextlib.contextmanager
    def lock(self, stage: str) -> Iterator[None]:
        """Hold a stage for this process; the system lets go of it when the process dies."""
        path = self.stage_dir(stage).with_suffix(".lock")
        lock, owner = FileLock(path), path.with_suffix(".pid")
        try:
            with writing(path):
                lock.acquire(timeout=0)
        except Timeout:
            pid = owner.read_text() if owner.exists() else "unknown"
            raise ChatlibError(
                f"Process {pid} is already working on stage {stage!r} of run {self.name!r}: "
                "wait for it, stop it, or use another run name."
            ) from None
        try:
            atomic_write(owner, str(os.getpid()))
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()


class Metrics:
    """A JSON Lines file of what was measured, one object a line, each with its `step`.

    A number that is not finite is stored as `null`, because JSON has no other word for it, and
    comes back as `nan`. A last line torn by a crash is skipped.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def log(self, step: int, **values: Any) -> None:
        """Append one line and hand it to the operating system at once."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_line({"step": step} | values))

    def rows(self) -> list[dict[str, Any]]:
        """All lines, oldest first; none if there is no file yet."""
        rows = []
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                rows.append({k: math.nan if v is None else v for k, v in row.items()})
        return rows

    def truncate_after(self, step: int) -> None:
        """Drop what was logged after `step`: call it when a run goes on from a checkpoint."""
        atomic_write(self.path, "".join(_line(r) for r in self.rows() if r["step"] <= step))


def _line(row: dict[str, Any]) -> str:
    odd = {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.dumps(row | odd) + "\n"


def system_info() -> dict[str, Any]:
    """Versions, git commit and hardware, for manifests and reports."""
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "chatlib": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": torch.cuda.device_count(),
        "gpu": gpu and gpu.name,
        "gpu_memory_gb": gpu and round(gpu.total_memory / 2**30, 1),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu_model() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
