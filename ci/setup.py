"""Make `.venv` from requirements.txt, once: `python -m ci.setup`.

A stamp in `.venv` remembers what it was made from, so that a second call does nothing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time

MIN_PYTHON = (3, 11)
FREE_GB = 8  # on Linux torch brings CUDA along: 5.4 GB once unpacked, and the packed files

if sys.version_info < MIN_PYTHON:  # before anything that an older Python cannot import
    sys.exit(
        "From Bytes to Chat needs Python 3.11 or newer and this is Python {}.{}; install one from "
        "python.org and say which to use, as in: make book PYTHON=python3.12".format(
            *sys.version_info[:2]
        )
    )

from ci._venv import PYTHON, ROOT, VENV  # noqa: E402

STAMP = VENV / "made-from"
LOG = VENV / "setup.log"
CAPTURE = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def fingerprint() -> str:
    """A hash of what the environment is made from: our pins, our package, this folder."""
    parts = [(ROOT / name).read_bytes() for name in ("requirements.txt", "pyproject.toml")]
    return hashlib.sha256(b"\0".join([*parts, str(ROOT).encode()])).hexdigest()


def is_ready() -> bool:
    """Whether `.venv` was made, to its end, from what lies here now."""
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint()


def check_machine() -> None:
    """Stop with one sentence where set-up cannot work; mention what is only missed."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < FREE_GB:
        sys.exit(
            f"Set-up needs about {FREE_GB} GB of free disk space for PyTorch and the rest, and "
            f"{ROOT} has {free:.1f} GB; free some and call this again."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            "This Python cannot make virtual environments; on Debian and Ubuntu install them with: "
            f"sudo apt-get install python3.{sys.version_info[1]}-venv"
        )
    if not shutil.which("git"):
        print("  no git found: runs will not record the commit they were made from")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        print("  no C++ compiler found: everything works uncompiled, training takes longer")


def make_venv() -> None:
    """An empty environment, unless one that works is there (older pins, a set-up cut short)."""
    works = [PYTHON, "-c", f"import sys, pip; sys.exit(sys.version_info < {MIN_PYTHON})"]
    if PYTHON.exists() and subprocess.run(works, **CAPTURE).returncode == 0:
        return
    print(f"  making {VENV.name} with Python {sys.version.split()[0]}", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], **CAPTURE)
    if made.returncode:
        sys.exit(f"Python could not make a virtual environment in {VENV}: {made.stdout[-500:]}")


def pip(*arguments: str, total: int = 0) -> None:
    """Run pip in the environment, its words in a log, its progress on one line."""
    command = [str(PYTHON), "-m", "pip", "install", "--no-input", *arguments]
    progress = Progress(total)
    with open(LOG, "a", encoding="utf8") as log:
        child = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **CAPTURE
        )
        tail: list[str] = []
        try:
            for line in child.stdout:
                log.write(line)
                tail = [*tail[-40:], line]
                progress.see(line)
        except KeyboardInterrupt:
            child.wait()
            sys.exit("\nStopped; the next call goes on from here.")
    progress.end()
    if child.wait():
        sys.exit(why_pip_failed("".join(tail)))


class Progress:
    """One line that says how far pip is; one line every ten seconds where there is no terminal."""

    def __init__(self, total: int):
        self.total, self.count, self.start, self.shown = total, 0, time.time(), 0.0
        self.live = sys.stdout.isatty()

    def see(self, line: str) -> None:
        words = line.split()
        if not words or words[0] not in ("Collecting", "Downloading", "Installing"):
            return
        self.count += words[0] == "Collecting"
        installing = words[0] == "Installing"
        what = "unpacking and installing" if installing else " ".join(words[:2]).lower()
        now = time.time()
        if self.total and (installing or self.live or now - self.shown > 10):
            self.shown = now
            known = max(self.total, self.count)  # on Linux, torch brings CUDA along
            text = f"  {self.count:3d}/{known} packages, {now - self.start:3.0f} s: {what}"
            print("\r" + text[:100].ljust(100) if self.live else text, end="", flush=True)
            if not self.live:
                print(flush=True)

    def end(self) -> None:
        if self.live and self.shown:
            print()


NO_INDEX = (
    "name resolution",
    "getaddrinfo",
    "NewConnectionError",
    "ConnectTimeout",
    "Network is unreachable",
    "ProxyError",
    "(from versions: none)",
    "Read timed out",
)


def why_pip_failed(tail: str) -> str:
    """The one sentence to end with when pip gave up with these last lines."""
    if "No space left" in tail:
        return f"The disk filled up during set-up; free about {FREE_GB} GB and call this again."
    if any(sign in tail for sign in NO_INDEX):
        return (
            "pip could not reach a package index; connect to the network (or point pip at a mirror "
            f"with PIP_INDEX_URL) and call this again. What pip said: {LOG}"
        )
    errors = [line for line in tail.splitlines() if line.startswith("ERROR")]
    said = errors[-1] if errors else tail.strip().splitlines()[-1] if tail.strip() else "nothing"
    return f"pip could not install the requirements ({said.strip()}); all that it said: {LOG}"


def compile_bytecode() -> None:
    """What pip would do on one core, on all of them; nothing here runs the packages' own tests."""
    packages = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], **CAPTURE
    ).stdout.strip()
    arguments = ("-qq", "-j", "0", "-x", r"[\\/]tests[\\/]", packages)
    subprocess.run([PYTHON, "-m", "compileall", *arguments], **CAPTURE)


def trust_notebooks() -> None:
    """JupyterLab shows stored figures and widgets only of notebooks that the user trusts."""
    folders = ("book", "exercises", "solutions")
    notebooks = [str(path) for folder in folders for path in ROOT.glob(f"{folder}/**/*.ipynb")]
    if notebooks:
        subprocess.run([PYTHON, "-m", "jupyter", "trust", *notebooks], **CAPTURE)


def main() -> None:
    if is_ready():
        return
    started = time.time()
    print("Setting up (this once):", flush=True)
    check_machine()
    make_venv()
    STAMP.unlink(missing_ok=True)
    LOG.write_text("")
    pins = (ROOT / "requirements.txt").read_text().count("==")
    pip("--no-compile", "-r", "requirements.txt", total=pins)
    compile_bytecode()
    pip("--no-deps", "--no-build-isolation", "-e", ".")
    trust_notebooks()
    STAMP.write_text(fingerprint())
    print(f"Set up in {time.time() - started:.0f} s: {VENV}", flush=True)


if __name__ == "__main__":
    ready = is_ready()
    main()
    if ready:
        print(f"Set up already: {VENV}")
