"""The decode step as machine code: two C++ files, compiled once for this machine, called as is.

A step of a small model is hundreds of tiny operations, and PyTorch spends longer on calling each
than on computing it. Here the step is one call (`decode.cpp`), and choosing tokens is another
(`sampling.cpp`). The step reads float32 weights, or weights in 8 bits with one scale for each
output, which quarters what it has to fetch.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_double, c_float, c_int64, c_void_p
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from chatlib.errors import ChatlibError
from chatlib.kv_cache import KVCache
from chatlib.loss import SOFTCAP
from chatlib.model import GATE_CHANNELS, GPT, QK_SCALE
from chatlib.runs import home
from chatlib.sampling import Sampling

SOURCES = [Path(__file__).with_name(n) for n in ("decode.cpp", "sampling.cpp", "threads.h")]
PANEL = 32  # outputs that are worked on together
FLAGS = ["-O3", "-march=native", "-ffast-math", "-funroll-loops"]
FLAGS += ["-std=c++17", "-shared", "-fPIC", "-pthread", f"-DPANEL={PANEL}"]
ROWS_A_THREAD = 4  # fewer are done before a second thread has started


def find_compiler(*others: str) -> str | None:
    """A C++ compiler that understands vector types, else one of the others, if there is one."""
    names = (os.environ.get("CXX", "g++"), "g++", "clang++", *others)
    return next((path for name in names if (path := shutil.which(name))), None)


@cache
def load() -> ctypes.CDLL:
    """The compiled step, from the cache under CHATLIB_HOME or built now, which takes seconds."""
    compiler = find_compiler()
    if compiler is None:
        raise ChatlibError("Compiling needs a C++ compiler: install g++, or do without.")
    machine = platform.node(), torch.backends.cpu.get_cpu_capability()
    made_from = b"".join(source.read_bytes() for source in SOURCES)
    made_from += repr((compiler, FLAGS, machine)).encode()
    library = home() / "native" / f"decode-{hashlib.sha256(made_from).hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            command = [compiler, *FLAGS, *map(str, SOURCES[:2]), "-o", str(built)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                raise ChatlibError(
                    f"{compiler} could not compile {SOURCES[0].name}: "
                    f"{result.stderr.strip().splitlines()[0]}; another compiler may (set CXX)."
                )
            os.replace(built, library)
    loaded = ctypes.CDLL(str(library))
    loaded.decode.argtypes = [c_void_p, c_int64, c_int64, *[c_void_p] * 4]
    loaded.choose.argtypes = [c_void_p, c_int64, c_int64, c_int64, *[c_void_p] * 4]
    return loaded


@cache
def loads() -> bool:
    """Whether the step compiles here; where not, says once what that costs and why."""
    try:
        load()
    except ChatlibError as problem:
        print(f"Writing goes through PyTorch, several times as slow. {problem}", flush=True)
        return False
    return True


def available() -> bool:
    """Whether steps can be compiled here, and nobody has switched that off."""
    return os.environ.get("CHATLIB_COMPILE", "1") != "0" and loads()


def threads_for(rows: int) -> int:
    return max(1, min(torch.get_num_threads(), rows // ROWS_A_THREAD))


SIZES = ("n_layer", "n_head", "n_kv_head", "head_dim", "n_embd")
SCALARS = ("smear_scale", "residual_scales", "embedding_scales", "backout_scale")


def fields(kind: type, *names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names]


class Matrix(ctypes.Structure):
    _fields_ = fields(c_void_p, "weights", "scales") + fields(c_int64, "n_in", "n_out")


class Layer(ctypes.Structure):
    _fields_ = fields(Matrix, "qkv", "out", "up", "down")
    _fields_ += fields(c_void_p, "value_table", "value_gate", "keys", "values")
    _fields_ += fields(c_int64, "window")


class Model(ctypes.Structure):
    _fields_ = fields(c_int64, *SIZES, "vocab", "max_len")
    _fields_ += fields(c_int64, "smear_channels", "gate_channels", "middle")
    _fields_ += fields(c_float, "qk_scale", "softcap")
    _fields_ += fields(c_void_p, "embedding", "cosines", "sines", "smear_gate", *SCALARS, "layers")
    _fields_ += fields(Matrix, "head")


class Settings(ctypes.Structure):
    _fields_ = fields(c_int64, "top_k")
    _fields_ += fields(c_float, "temperature", "top_p", "min_p", "repetition")

    @classmethod
    def of(cls, row: Sampling) -> "Settings":
        return cls(**asdict(row) | {"top_k": 1 if row.greedy else row.top_k})


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (out, in) in whole 127ths of each row's largest magnitude: int8 and scales (out,)."""
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


class Decoder:
    """The decode step of `model` on `cache` (float32, on a CPU), for its first rows, and the choice
    of tokens before it.

    Matrices are packed here, once: a step made before the model is trained on knows nothing of it.
    """

    def __init__(self, model: GPT, cache: KVCache, int8: bool = False) -> None:
        self.library, self.int8 = load(), int8
        self.vocab, self.kept = model.config.vocab_size, []  # what C++ points to must not be freed
        self.rows: list[Sampling] = []
        config, at = model.config, self._address
        self.previous = at(cache.previous)
        layers = (Layer * config.n_layer)()
        for i, block in enumerate(model.blocks):
            attention, mlp = block.attention, block.mlp
            matrices = (attention.qkv, attention.out, mlp.up, mlp.down)
            table = None, None
            if config.has_value_embedding(i):
                table = model.value_embeddings[str(i)].weight, attention.value_gate.weight
            layers[i] = Layer(
                *(self._packed(matrix.weight) for matrix in matrices),
                *(at(x) for x in (*table, cache.keys[i], cache.values[i])),
                attention.window,
            )
        self.layers = layers
        self.model = Model(
            **{name: getattr(config, name) for name in SIZES},
            vocab=config.vocab_size,
            max_len=cache.max_len,
            smear_channels=model.smear_gate.in_features,
            gate_channels=min(GATE_CHANNELS, config.n_embd),
            middle=config.n_layer // 2,
            qk_scale=QK_SCALE,
            softcap=SOFTCAP,
            embedding=at(model.embedding.weight),
            cosines=at(model.rotary[0]),
            sines=at(model.rotary[1]),
            smear_gate=at(model.smear_gate.weight),
            **{name: at(getattr(model, name)) for name in SCALARS},
            layers=ctypes.addressof(layers),
            head=self._packed(model.head.weight),
        )

    def __call__(self, ids: list[int], positions: list[int]) -> Tensor:
        """Read each row's newest token at its position -> scores (rows, vocab)."""
        rows = len(ids)
        logits = torch.empty(rows, self.vocab)
        numbers = c_int64 * rows
        self.library.decode(
            ctypes.byref(self.model),
            rows,
            threads_for(rows),
            numbers(*ids),
            numbers(*positions),
            self.previous,
            logits.data_ptr(),
        )
        return logits

    def choose(
        self, logits: Tensor, rows: list[Sampling], uniform: list[float], seen: Tensor | None = None
    ) -> list[int]:
        """The tokens that `sampling.choose` defines, for float32 logits (rows, vocab)."""
        assert logits.dtype == torch.float32 and logits.is_contiguous()
        if rows != self.rows:  # from step to step they seldom change
            self.rows, self.settings = rows, (Settings * len(rows))(*map(Settings.of, rows))
        picked = (c_int64 * len(rows))()
        self.library.choose(
            logits.data_ptr(),
            len(rows),
            threads_for(len(rows)),
            self.vocab,
            self.settings,
            (c_double * len(rows))(*uniform),
            None if seen is None else seen.data_ptr(),
            picked,
        )
        return list(picked)

    def _address(self, x: Tensor | None) -> int | None:
        if x is None:
            return None
        assert x.dtype in (torch.float32, torch.int8) and x.is_contiguous() and not x.is_cuda
        self.kept.append(x)
        return x.data_ptr()

    def _packed(self, weight: Tensor) -> Matrix:
        """weight (out, in) in panels: (out / PANEL, in, PANEL), the last filled up with zeros."""
        weight = F.pad(weight.detach(), (0, 0, 0, -len(weight) % PANEL))
        weight, scales = quantize_rows(weight) if self.int8 else (weight, None)
        panels = weight.unflatten(0, (-1, PANEL)).mT.contiguous()
        return Matrix(self._address(panels), self._address(scales), weight.size(1), weight.size(0))
