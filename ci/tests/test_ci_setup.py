"""Set-up: what it refuses and how, when it does nothing, what carries on."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from ci import _venv, clean, setup
from ci._venv import ROOT


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A repository with pins but no environment yet."""
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    venv = tmp_path / ".venv"
    python = venv / _venv.PYTHON.relative_to(_venv.VENV)
    for name, value in {
        "ROOT": tmp_path,
        "VENV": venv,
        "PYTHON": python,
        "STAMP": venv / "made-from",
        "LOG": venv / "setup.log",
    }.items():
        monkeypatch.setattr(setup, name, value)
    return tmp_path


def pretend_ready(folder):
    setup.PYTHON.parent.mkdir(parents=True)
    setup.PYTHON.symlink_to(sys.executable)
    setup.STAMP.write_text(setup.fingerprint())


def test_a_second_call_does_nothing(elsewhere, capsys):
    assert not setup.is_ready()
    pretend_ready(elsewhere)
    assert setup.is_ready()
    setup.main()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_changed_pins_are_noticed(elsewhere, name):
    pretend_ready(elsewhere)
    with open(elsewhere / name, "a") as file:
        file.write("# changed\n")
    assert not setup.is_ready()


def test_a_lost_python_is_noticed(elsewhere):
    pretend_ready(elsewhere)
    setup.PYTHON.unlink()
    assert not setup.is_ready()


def test_too_little_disk_is_one_sentence(elsewhere, monkeypatch):
    monkeypatch.setattr(setup, "FREE_GB", 10**9)
    with pytest.raises(SystemExit) as stopped:
        setup.main()
    assert re.fullmatch(
        r"Set-up needs .* has [\d.]+ GB; free some and call this again\.", str(stopped.value)
    )
    assert not setup.VENV.exists()


def test_no_compiler_and_no_git_are_said_and_no_hindrance(elsewhere, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(elsewhere))
    monkeypatch.setattr(setup, "FREE_GB", 0)
    setup.check_machine()
    said = capsys.readouterr().out
    assert "no git found" in said and "everything works uncompiled" in said


def test_no_index_is_one_sentence_and_leaves_no_stamp(elsewhere, monkeypatch):
    monkeypatch.setattr(setup, "FREE_GB", 0)
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    (elsewhere / "requirements.txt").write_text("no-such-package-of-ours==1.0\n")
    with pytest.raises(SystemExit) as stopped:
        setup.main()
    assert "could not reach a package index" in str(stopped.value)
    assert "no-such-package-of-ours" in setup.LOG.read_text()
    assert not setup.is_ready()


@pytest.mark.parametrize(
    ("tail", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk filled up"),
        ("Temporary failure in name resolution", "could not reach a package index"),
        (
            "ERROR: No matching distribution found for x==2\n",
            "No matching distribution found for x",
        ),
        ("", "all that it said"),
    ],
)
def test_pips_reasons_become_sentences(tail, sentence):
    assert sentence in setup.why_pip_failed(tail)


def test_an_old_python_is_told_which_to_use():
    source = (ROOT / "ci" / "setup.py").read_text()
    head = source[: source.index("from ci._venv")]
    old = head.replace("import sys\n", "import sys\nsys.version_info = (3, 9, 2)\n")
    said = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True)
    assert said.returncode == 1
    assert "needs Python 3.11 or newer and this is Python 3.9" in said.stderr
    assert "Traceback" not in said.stderr


def test_commands_do_not_need_the_environment_to_start():
    """What Python loads before .venv is there is the standard library and ci itself."""
    names = [
        p.stem
        for p in (ROOT / "ci").glob("*.py")
        if not p.stem.startswith("bench") and 'if __name__ == "__main__"' in p.read_text()
    ]
    assert {"book", "test", "chat", "full_run", "lab", "clean"} <= set(names)
    code = f"import sys; import {', '.join('ci.' + name for name in names)}\n" + (
        "ours = {m.split('.')[0] for m in sys.modules}; "
        "print(ours & {'numpy', 'torch', 'nbformat', 'chatlib', 'papermill', 'yaml'} or 'clean')"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert said.stdout.strip() == "clean", said.stdout + said.stderr


def test_every_pin_is_exact():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.match(r"[A-Za-z0-9._-]+==[\w.]+( *;.*)?$", pin) for pin in pins)
    names = [re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins]
    assert len(set(names)) == len(names)
    assert {"torch", "jupyter-book", "nbval", "setuptools"} <= set(names)


def test_make_has_a_face_for_every_command():
    text = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^([a-z-]+): *##", text, re.MULTILINE):
        if target != "help":
            assert (ROOT / "ci" / f"{target.replace('-', '_')}.py").exists(), target
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "book " in said and "test " in said


def test_clean_removes_what_was_built_and_nothing_else(tmp_path, monkeypatch, capsys):
    for name in ("_build/html", ".venv/bin", "chatlib/__pycache__", "chatlib/data"):
        (tmp_path / name).mkdir(parents=True)
    for name, path in {"ROOT": "", "BUILD": "_build", "VENV": ".venv"}.items():
        monkeypatch.setattr(clean, name, tmp_path / path)
    clean.main([])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".venv", "chatlib"]
    clean.main(["--all"])
    assert [p.name for p in tmp_path.rglob("*")] == ["chatlib", "data"]
    assert "stay where they are" in capsys.readouterr().out
