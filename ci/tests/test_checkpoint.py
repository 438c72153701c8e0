"""Checkpoints: what goes in comes out, and no crash or damage goes unnoticed."""

import errno
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from chatlib import checkpoint
from chatlib.errors import ChatlibError


def weights(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "a.weight": torch.randn(64, 32, generator=generator),
        "scale": torch.tensor(float(step)),
    }


def save(stage, step, **kw):
    moments = {"m": torch.full((3,), float(step)), "table": torch.ones(4, dtype=torch.bfloat16)}
    arguments = {"model_tensors": weights(step), "optimizer_tensors": moments}
    meta = {"config": {"n_layer": 2}, "loss": 1 / 3}
    return checkpoint.save(stage, step, **arguments | {"meta": meta} | kw)


def same(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


def test_what_goes_in_comes_out(tmp_path):
    save(tmp_path / "base", 7, rank_meta={"loader": [1, 2]})
    loaded = checkpoint.load_latest(tmp_path / "base")
    assert (loaded.step, loaded.world_size) == (7, 1)
    assert loaded.meta == {"config": {"n_layer": 2}, "loss": 1 / 3}
    assert loaded.rank_meta == {"loader": [1, 2]}
    assert same(loaded.model_tensors, weights(7))
    assert loaded.optimizer_tensors["table"].dtype == torch.bfloat16
    assert checkpoint.load_model(tmp_path / "base") == loaded


def test_tensors_that_share_memory_or_are_transposed_are_saved(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "part": whole[1:], "turned": whole.T, "none": torch.empty(0)}
    save(tmp_path, 1, model_tensors=tensors)
    assert same(checkpoint.load_latest(tmp_path).model_tensors, tensors)


def test_the_newest_k_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        save(tmp_path, step, keep=2)
    assert checkpoint.steps(tmp_path) == [15, 20]
    save(tmp_path, 17, keep=1)  # after falling back below 20: the step just saved stays
    assert checkpoint.steps(tmp_path) == [17, 20]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000017", "step_000020"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "step_000003" / "state.json").write_text("{")
    save(tmp_path, 3, meta={"again": True})
    assert checkpoint.load_latest(tmp_path).meta == {"again": True}


def test_a_stage_without_checkpoints(tmp_path):
    assert checkpoint.load_latest(tmp_path / "none") is None
    with pytest.raises(ChatlibError, match=r"There is no checkpoint in .*: train that stage first"):
        checkpoint.load_model(tmp_path / "none")


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


FILES = ["model.safetensors", "optimizer_0000.safetensors", "rank_0000.json", "state.json"]


@pytest.mark.parametrize("damage", [flip_bit, truncate, os.remove], ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_and_the_previous_checkpoint_used(tmp_path, capsys, name, damage):
    save(tmp_path, 1)
    save(tmp_path, 2, rank_meta={"loader": list(range(100))})
    damage(tmp_path / "step_000002" / name)
    loaded = checkpoint.load_latest(tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert loaded.step == 1 and same(loaded.model_tensors, weights(1))
    assert len(said) == 1
    assert "step_000002" in said[0] and name in said[0]
    assert said[0].endswith("Going on from step_000001.")
    checkpoint.load_latest(tmp_path, rank=1)
    assert capsys.readouterr().out == ""  # rank 0 has said it for all
    damage(tmp_path / "step_000001" / name)
    with pytest.raises(ChatlibError, match="No good one is left"):
        checkpoint.load_latest(tmp_path)


def test_every_flipped_bit_of_state_json_is_found(tmp_path):
    path = save(tmp_path, 1) / "state.json"
    good = path.read_bytes()
    for position in random.Random(0).sample(range(len(good)), 100):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(ChatlibError):
            checkpoint.load(path.parent)


def test_foreign_folders_and_pickles_are_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/exploded",)

    foreign = tmp_path / "step_000001"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ChatlibError, match=r"has no file state\.json"):
        checkpoint.load(foreign)
    for state in ({"step": 1}, [1], {"format": "chatlib checkpoint 0"}):
        (foreign / "state.json").write_text(json.dumps(state))
        with pytest.raises(ChatlibError, match="not a checkpoint that this version"):
            checkpoint.load(foreign)
    assert not (tmp_path / "exploded").exists()


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(ChatlibError, match="No space is left"):
            save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_000001"]
    assert checkpoint.load_latest(tmp_path).step == 1
    save(tmp_path, 2)
    assert checkpoint.load_latest(tmp_path).step == 2


SAVER = """
import sys, torch
from pathlib import Path
from chatlib import checkpoint
step = int(sys.argv[2])
while True:
    step += 1
    tensors = {f"w{i}": torch.full((1 << 16,), float(step)) for i in range(8)}
    checkpoint.save(Path(sys.argv[1]), step, model_tensors=tensors, optimizer_tensors=tensors,
                    meta={"step": step}, keep=1)
"""


def test_sigkill_at_any_moment_leaves_a_good_checkpoint(tmp_path, capsys):
    step, partial_left = 1, 0
    save(tmp_path, step)
    pause = random.Random(1)
    for _ in range(4):
        command = [sys.executable, "-c", SAVER, str(tmp_path), str(step)]
        child = subprocess.Popen(command)
        # the folder is read while it changes: a reader can miss both the old and the new name
        while checkpoint.steps(tmp_path) in ([], [step]) or not any(tmp_path.glob(".step_*/*")):
            assert child.poll() is None
        time.sleep(pause.random() * 0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        partial_left += any(p.name.startswith(".") for p in tmp_path.iterdir())
        loaded = checkpoint.load_latest(tmp_path)
        assert loaded.step > step and capsys.readouterr().out == ""
        assert all((t == loaded.step).all() for t in loaded.model_tensors.values())
        step = loaded.step
    assert partial_left, "no kill fell into a write: the test proved nothing"


RANK = """
import os, sys, torch, torch.distributed as dist
from pathlib import Path
from chatlib import checkpoint
from chatlib.errors import ChatlibError
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meet", rank=rank, world_size=2)
stage = Path(sys.argv[1]) / "base"
def save(step, shard):
    model = {"w": torch.ones(3)} if rank == 0 else {}
    checkpoint.save(stage, step, model_tensors=model, optimizer_tensors=shard, meta={},
                    rank_meta={f"lane {rank}": rank, "step": 5}, rank=rank, world_size=2)
save(0, {"m": torch.ones(2)} if rank == 0 else {})  # rank 1 owns nothing
save(1, {f"m:{rank}": torch.full((2,), float(rank))})
try:
    save(2, {"m": torch.ones(2)} if rank == 0 else None)  # rank 1 fails
except (ChatlibError, AttributeError) as error:
    print(error)
dist.destroy_process_group()
"""


def test_two_ranks_save_together_and_fail_together(tmp_path):
    pipes = {"stdout": subprocess.PIPE, "text": True}
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path), str(r)], **pipes)
        for r in range(2)
    ]
    said = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert "Another process could not save" in said[0] and "items" in said[1]
    loaded = checkpoint.load_latest(tmp_path / "base")
    assert (loaded.step, loaded.world_size) == (1, 2)
    assert loaded.rank_meta == {"lane 0": 0, "lane 1": 1, "step": 5}
    assert {k: t.tolist() for k, t in loaded.optimizer_tensors.items()} == {
        "m:0": [0.0, 0.0],
        "m:1": [1.0, 1.0],
    }
    assert checkpoint.load(tmp_path / "base" / "step_000000").optimizer_tensors.keys() == {"m"}
