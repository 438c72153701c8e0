"""Run a Python program that nobody has read, such as a model's answer to a coding task.

The program gets a process of its own with little memory, time and output, an empty environment,
and an empty temporary folder; it can start no other process. On Linux, where the system allows
namespaces, it also sees no network, no process but its own, and a disk it cannot write to.

What this is not: a defense against an attacker. It shares the kernel with you, may read every
file you may read, and may talk to local services through their socket files; a kernel bug is a way
out. `isolated()` tells whether namespaces are in use. Without them (macOS, Windows, most
containers) a program can also reach the network, delete your files and signal your processes, and
on Windows, or as root, start others. For programs meant to do harm, use a virtual machine.
"""

import contextlib
import ctypes
import functools
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

MAX_FILE = 1 << 20  # bytes the program may print, or write to any one file
NOBODY = 65534  # the user id that owns nothing


@dataclass(frozen=True)
class Result:
    """How a program ended: `ok` if it exited with 0, and within its time."""

    ok: bool
    output: str  # what it printed, errors included
    timed_out: bool = False


def run_python(code: str, *, timeout: float = 5.0, memory_mb: int = 256) -> Result:
    """Run `code` for at most `timeout` seconds in `memory_mb` MiB; see what this is not, above.

    Only the standard library can be imported. Whatever the program does comes back as a Result.
    """
    return _run(code, timeout, memory_mb, _namespaces() if isolated() else [])


@functools.cache
def isolated() -> bool:
    """Whether programs run in namespaces here (tried once, with a program that does nothing)."""
    return shutil.which("unshare") is not None and _run("", 60.0, 256, _namespaces()).ok


def _namespaces() -> list[str]:
    """The command that gives what follows it its own mounts, network and process ids."""
    become_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *become_root, "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child"]


def _run(code: str, timeout: float, memory_mb: int, namespaces: list[str]) -> Result:
    environment = {"SYSTEMROOT": os.environ["SYSTEMROOT"]} if os.name == "nt" else {}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as output,
    ):
        python = [sys.executable, "-I", "-S", "-X", "utf8", os.path.abspath(__file__)]
        user = "root" if os.name == "posix" and os.geteuid() == 0 else "user"
        settings = [folder, str(timeout), str(memory_mb), user if namespaces else "alone"]
        process = subprocess.Popen(
            [*namespaces, *python, *settings],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        timed_out = False
        try:
            process.communicate(code.encode(errors="replace"), timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _kill(process)
        output.seek(0)
        text = output.read(MAX_FILE).decode(errors="replace")
    return Result(process.returncode == 0 and not timed_out, text, timed_out)


def _kill(process: subprocess.Popen) -> None:
    """Kill the process with its whole group; the death of a namespace's first kills the rest."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


# ---- in the child, before the program ----


def _child(folder: str, timeout: str, memory_mb: str, user: str) -> None:
    code = sys.stdin.buffer.read()
    if user != "alone":
        _isolate(folder, user == "root")
    if os.name == "posix":
        _limit(math.ceil(float(timeout)) + 1, int(memory_mb) << 20)
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})


def _isolate(folder: str, root: bool) -> None:
    """Take the disk and every privilege away; the process that returns is a child of the caller.

    The caller stays behind, in the process group that will be killed, as the namespace's first
    process: when it dies, the kernel kills whatever the program has become.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments) -> None:
        if getattr(libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), name)

    read_only = (ctypes.c_uint64 * 4)(1)  # struct mount_attr: set MOUNT_ATTR_RDONLY
    call("syscall", 442, -100, b"/", 0x8000, read_only, ctypes.sizeof(read_only))  # mount_setattr
    call("mount", b"proc", b"/proc", b"proc", 0, None)
    call("mount", b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=16m,mode=1777")
    os.chdir(folder)
    if pid := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if root:
        call("prctl", 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS, for the one kept below
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    may_read = 1 << 2 if root else 0  # CAP_DAC_READ_SEARCH: Python itself may be in root's home
    call("capset", (ctypes.c_uint32 * 2)(0x2008_0522), (ctypes.c_uint32 * 6)(may_read, may_read))


def _limit(seconds: int, memory: int) -> None:
    """Set hard limits. A system that does not know one (macOS, memory) goes without it."""
    import resource

    limits = {
        "RLIMIT_CPU": seconds,
        "RLIMIT_AS": memory,
        "RLIMIT_FSIZE": MAX_FILE,
        "RLIMIT_NPROC": 0,  # no new processes or threads; not enforced for root
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


if __name__ == "__main__":
    _child(*sys.argv[1:])
