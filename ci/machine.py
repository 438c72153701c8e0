"""What a machine must have before a full run is started on it.

`problems` lists what is missing, each in one sentence that says what to do; `notes` what only
makes it slower. Nothing is started and nothing is downloaded.
"""

import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import torch
from huggingface_hub import constants

from chatlib.data import hub
from chatlib.native import find_compiler
from chatlib.planner import GB, memory
from chatlib.runs import home
from chatlib.scaling import Plan, Scale, make_plan

CHECKPOINTS = 7  # two for each of three stages, and one half written
KEPT_OF_TEXT = 0.65  # by packing, at worst
BYTES_PER_TOKEN = 4.9  # of English with 49,152 tokens; a smaller vocabulary has less
SHARD_TEXT, SHARD_FILE = 250e6, 100e6  # characters in a file of the corpus, its bytes on disk
OTHER = 1 * GB  # notebooks, metrics, compiled kernels
PATIENCE = 10  # seconds to wait for the hub


def problems(scale: Scale, run: str) -> list[str]:
    """What keeps a run of `scale` from succeeding here; what `run` has stored already counts."""
    plan = make_plan(scale)
    found = disk(still_to_store(plan, run))
    if scale.gpus:
        found += gpus(plan, cards())
    if scale.gpus > 1:
        found += loopback()
    if scale.corpus in hub.CORPORA:
        found += reach(scale.corpus, files_of_text(plan))
    return found


def notes(scale: Scale) -> list[str]:
    """What is missing and does not stop a run of `scale`."""
    if scale.gpus or os.environ.get("CHATLIB_COMPILE") == "0" or find_compiler("cl"):
        return []
    return ["No C++ compiler was found: install g++ or clang, or training is about half as fast."]


def cards() -> list[tuple[str, int]]:
    """Name and free bytes of every GPU that torch can use."""
    places = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return [(torch.cuda.get_device_name(i), torch.cuda.mem_get_info(i)[0]) for i in places]


def why_no_gpu() -> str:
    """Why torch can use none, and what to do."""
    if not (torch.version.cuda or torch.version.hip):
        return f"torch {torch.__version__} is built for CPUs only: install its build for CUDA"
    try:
        torch.cuda.init()
    except Exception as error:  # whatever the driver says is what there is to say
        said = str(error).splitlines()[0].rstrip(". ")
        return f"torch says {said!r}: see whether nvidia-smi works, and update the driver"
    return "torch sees none: see whether nvidia-smi does, and unset CUDA_VISIBLE_DEVICES"


def gpus(plan: Plan, found: list[tuple[str, int]]) -> list[str]:
    """Too few GPUs, or too little memory free on one that the run will use."""
    scale, said = plan.scale, []
    if len(found) < scale.gpus:
        why = why_no_gpu() if not found else "rent a machine with more, or take --scale gpu"
        said.append(f"GPUs: scale {scale.name} needs {scale.gpus}, found {len(found)}; {why}.")
    need = memory(plan.config, scale.device_batch or 1, scale.gpus).total
    for i, (name, free) in enumerate(found[: scale.gpus]):
        if free < need:
            said.append(
                f"GPU {i} ({name}) has {free / GB:.1f} GB free and the plan needs "
                f"{need / GB:.1f}: end what else runs on it, or make the run beforehand with "
                f"`python -m chatlib tokenizer --scale {scale.name} --set device_batch=1`."
            )
    return said


def files_of_text(plan: Plan) -> int:
    """How many files of a corpus like ClimbMix a run reads."""
    characters = plan.tokens * BYTES_PER_TOKEN / KEPT_OF_TEXT
    return 1 + int(max(characters, plan.scale.tokenizer_chars) // SHARD_TEXT)


def still_to_store(plan: Plan, run: str) -> dict[Path, float]:
    """Folder -> bytes that the run has yet to write there."""
    count, folder = plan.parameters, home() / "runs" / run
    checkpoint = 4 * (3 * count.total - count.matrices)  # weights, and the optimizer's moments
    wanted = {home(): max(CHECKPOINTS * checkpoint - size(folder.rglob("*")), 0) + OTHER}
    if plan.scale.corpus in hub.CORPORA:
        repo, splits = hub.CORPORA[plan.scale.corpus]
        files = min(files_of_text(plan), len(splits["train"])) + len(splits["validation"])
        cache = Path(constants.HF_HUB_CACHE)
        has = size((cache / f"datasets--{repo.replace('/', '--')}" / "blobs").glob("*"))
        wanted[cache] = max(files * SHARD_FILE - has, 0)
    return wanted


def size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def disk(wanted: dict[Path, float]) -> list[str]:
    """Disks with less room than is to be written on them, folders that may not be written to."""
    said, needed, names = [], {}, {}
    for folder, need in wanted.items():
        there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
        device = there.stat().st_dev
        needed[device] = needed.get(device, 0) + need
        names.setdefault(device, []).append((folder, there))
        if not os.access(there, os.W_OK):
            said.append(f"You may not write to {there}: set CHATLIB_HOME and HF_HOME to yours.")
    for device, folders in names.items():
        free = shutil.disk_usage(folders[0][1]).free
        if free < needed[device]:
            said.append(
                f"The disk of {' and '.join(str(f) for f, _ in folders)} has {free / GB:.1f} GB "
                f"free and the run will store {needed[device] / GB:.1f} more: make room, or set "
                "CHATLIB_HOME (runs) and HF_HOME (text) to a larger one."
            )
    return said


def loopback() -> list[str]:
    """The processes of one machine meet at a free port of localhost: try it."""
    try:
        with socket.create_server(("localhost", 0)) as server:
            socket.create_connection(server.getsockname()[:2], timeout=5).close()
    except OSError as error:
        return [f"No two processes can meet on localhost ({error}): see /etc/hosts, the firewall."]
    return []


def reach(corpus: str, files: int) -> list[str]:
    """The hub must answer, unless all text that will be read is in the cache."""
    repo, splits = hub.CORPORA[corpus]
    names = [*splits["validation"], *splits["train"][:files]]
    cached = huggingface_hub.try_to_load_from_cache
    missing = [n for n in names if not isinstance(cached(repo, n, repo_type="dataset"), str)]
    if not missing:
        return []
    said = f"{len(missing)} of {len(names)} files of {corpus} are not in the cache"
    if constants.is_offline_mode():
        return [f"{said}, and HF_HUB_OFFLINE forbids asking the hub: unset it, or fetch them."]
    url = huggingface_hub.hf_hub_url(repo, missing[0], repo_type="dataset")
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE)
    except Exception as error:  # the library raises dozens of kinds
        why = f"{urlsplit(url).netloc} did not give one ({type(error).__name__})"
        return [f"{said}, and {why}: check the network, or set HF_ENDPOINT to a mirror."]
    return []
