"""Checkpoints that survive a crash: safetensors for the numbers, JSON for everything else.

    <stage>/step_000123/model.safetensors           the weights, written by rank 0
                        optimizer_0000.safetensors  what rank 0 holds of the optimizer's state
                        rank_0000.json              what else rank 0 needs: its place in the data
                        state.json                  step, meta, size and sha256 of every file

A checkpoint is written into a hidden folder and renamed when it is whole, so that a folder named
`step_…` is complete or damaged from outside; loading checks every sha256. Nothing is unpickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from chatlib.errors import ChatlibError
from chatlib.runs import writing

FORMAT = "chatlib checkpoint 1"
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint. Tensors are read from disk when they are asked for.

    What each rank saved on its own comes back merged, so that any number of ranks can go on from
    it: keys must therefore tell ranks apart, or carry the same value on all.
    """

    path: Path
    step: int
    world_size: int
    meta: dict[str, Any]

    @property
    def model_tensors(self) -> Tensors:
        """The weights by name, on the CPU."""
        return load_file(self.path / "model.safetensors")

    @property
    def optimizer_tensors(self) -> Tensors:
        """The optimizer's state, that of all ranks together."""
        names = [f"optimizer_{rank:04d}.safetensors" for rank in range(self.world_size)]
        return {k: tensor for name in names for k, tensor in load_file(self.path / name).items()}

    @property
    def rank_meta(self) -> dict[str, Any]:
        """What the ranks passed as `rank_meta`, merged."""
        names = [f"rank_{rank:04d}.json" for rank in range(self.world_size)]
        return {k: v for name in names for k, v in _read_json(self.path / name).items()}


def save(
    stage_dir: Path,
    step: int,
    *,
    model_tensors: Tensors,
    optimizer_tensors: Tensors,
    meta: dict[str, Any],
    rank_meta: dict[str, Any] | None = None,
    rank: int = 0,
    world_size: int = 1,
    keep: int = 2,
) -> Path:
    """Write the checkpoint of `step` and delete all but the newest `keep` up to it.

    Every rank calls this with its own `optimizer_tensors` and `rank_meta`; `model_tensors` and
    `meta` (both JSON-able) are rank 0's. When one rank fails, all raise ChatlibError and what was
    there before stays. With several machines `stage_dir` must be on a disk that all of them see.
    """
    final = Path(stage_dir) / f"step_{step:06d}"
    partial = final.with_name(f".{final.name}.partial")

    def prepare() -> None:
        for leftover in final.parent.glob(".step_*"):
            shutil.rmtree(leftover)
        partial.mkdir(parents=True)

    def write_shard() -> None:
        _save_tensors(partial / f"optimizer_{rank:04d}.safetensors", optimizer_tensors)
        _save_json(partial / f"rank_{rank:04d}.json", rank_meta or {})

    def finish() -> None:
        _save_tensors(partial / "model.safetensors", model_tensors)
        files = {name: _fingerprint(partial / name) for name in _file_names(world_size)}
        body = {"step": step, "world_size": world_size, "meta": meta, "files": files}
        seal = {"format": FORMAT, "sha256": _sha256_of_json(body), "body": body}
        _save_json(partial / "state.json", seal)
        _replace_folder(partial, final)
        for old in [s for s in steps(final.parent) if s <= step][:-keep]:
            shutil.rmtree(final.parent / f"step_{old:06d}")

    with writing(final):
        try:
            _together(prepare if rank == 0 else None)
            _together(write_shard)
            _together(finish if rank == 0 else None)
        except BaseException:
            if rank == 0:
                shutil.rmtree(partial, ignore_errors=True)  # the disk may be full because of it
            raise
    return final


def steps(stage_dir: Path) -> list[int]:
    """The steps that have a checkpoint folder, in increasing order."""
    folders = Path(stage_dir).glob("step_*")
    return sorted(int(f.name[5:]) for f in folders if f.name[5:].isdigit() and f.is_dir())


def load(path: Path) -> Checkpoint:
    """Verify and open the checkpoint in folder `path`, e.g. `…/base/step_000123`."""
    path = Path(path)
    if not (path / "state.json").is_file():
        raise ChatlibError(f"{path} holds no checkpoint: it has no file state.json.")
    try:
        seal = _read_json(path / "state.json")
    except ValueError as error:
        raise ChatlibError(f"{path} is damaged: its state.json is not whole JSON.") from error
    if not isinstance(seal, dict) or seal.get("format") != FORMAT:
        raise ChatlibError(f"{path} is not a checkpoint that this version of chatlib wrote.")
    body = seal.get("body")
    if _sha256_of_json(body) != seal.get("sha256"):
        raise ChatlibError(f"{path} is damaged: state.json has changed since it was written.")
    for name, recorded in body["files"].items():
        if not (path / name).is_file():
            raise ChatlibError(f"{path} is damaged: {name} is missing.")
        if (size := (path / name).stat().st_size) != recorded["bytes"]:
            raise ChatlibError(
                f"{path} is damaged: {name} has {size} bytes instead of {recorded['bytes']}."
            )
        if _fingerprint(path / name) != recorded:
            raise ChatlibError(f"{path} is damaged: {name} has changed since it was written.")
    return Checkpoint(path, body["step"], body["world_size"], body["meta"])


def load_latest(stage_dir: Path, rank: int = 0) -> Checkpoint | None:
    """The newest good checkpoint of a stage, or None if the stage has none yet.

    A damaged one is passed over, and rank 0 says so; if all are damaged, that is an error.
    """
    problem = None
    for step in reversed(steps(stage_dir)):
        try:
            checkpoint = load(Path(stage_dir) / f"step_{step:06d}")
        except ChatlibError as error:
            problem = problem or error
            continue
        if problem and rank == 0:
            print(f"{problem} Going on from {checkpoint.path.name}.", flush=True)
        return checkpoint
    if problem:
        raise ChatlibError(f"{problem} No good one is left: delete {stage_dir} to start again.")
    return None


def load_model(stage_dir: Path) -> Checkpoint:
    """The newest good checkpoint of a stage that must have one, for its `model_tensors`."""
    checkpoint = load_latest(stage_dir)
    if checkpoint is None:
        raise ChatlibError(f"There is no checkpoint in {stage_dir}: train that stage first.")
    return checkpoint


def _together(action: Callable[[], None] | None) -> None:
    """Do this rank's part, wait for the others', and fail everywhere if one failed."""
    problem = None
    try:
        if action:
            action()
    except Exception as error:  # whatever it is, the others must not wait for ever
        problem = error
    said = [problem and str(problem)]
    if dist.is_available() and dist.is_initialized():
        said = [None] * dist.get_world_size()
        dist.all_gather_object(said, problem and str(problem))
    if problem:
        raise problem
    if any(said):
        raise ChatlibError(f"Another process could not save: {next(s for s in said if s)}")


def _file_names(world_size: int) -> list[str]:
    names = ["model.safetensors"]
    for rank in range(world_size):
        names += [f"optimizer_{rank:04d}.safetensors", f"rank_{rank:04d}.json"]
    return names


def _save_tensors(path: Path, tensors: Tensors) -> None:
    """Copies, because safetensors refuses tensors that share memory."""
    copies = {k: t.detach().to("cpu", copy=True).contiguous() for k, t in tensors.items()}
    _write(path, safetensors.torch.save(copies))


def _save_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value).encode())


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace_folder(new: Path, final: Path) -> None:
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():
        os.replace(final, replaced)
    os.replace(new, final)
    shutil.rmtree(replaced, ignore_errors=True)


def _fingerprint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ChatlibError(f"{path} is missing: all processes must see the same disk.")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
