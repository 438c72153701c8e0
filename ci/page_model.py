"""The model that the reader talks to in a page: `python -m ci.page_model FILE.js [--run NAME]`.

A page opened from disk may load scripts and nothing else, so the weights are a script: one global
with the model's shape, its vocabulary, and its numbers in half precision as base64.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ci._venv import ensure_venv

if TYPE_CHECKING:
    from chatlib.model import GPT
    from chatlib.tokenizer import Tokenizer

LARGEST = 3_000_000  # parameters: about 8 MB of script, more than a page should ask for


def script(model: GPT, tokenizer: Tokenizer, about: dict) -> str:
    """JavaScript that sets CHAT_MODEL, which book/_static/chat.js reads."""
    import torch

    from chatlib.loss import SOFTCAP
    from chatlib.model import QK_SCALE, ROPE_BASE
    from chatlib.tokenizer import SPECIAL_TOKENS

    config, weights = model.config, model.state_dict()
    numbers = torch.cat([tensor.flatten() for tensor in weights.values()]).half()
    assert numbers.isfinite().all(), "a weight does not fit half precision"
    constants = {"softcap": SOFTCAP, "qk_scale": QK_SCALE, "rope_base": ROPE_BASE}
    content = {
        "about": about | {"parameters": numbers.numel()},
        "config": config.to_dict() | {"windows": config.windows()} | constants,
        "pattern": tokenizer.pattern,
        "tokens": [base64.b64encode(token).decode() for token in tokenizer.tokens],
        "specials": SPECIAL_TOKENS,
        "tensors": [[name, tensor.numel()] for name, tensor in weights.items()],
        "data": base64.b64encode(numbers.numpy().astype("<f2").tobytes()).decode(),
    }
    return f"globalThis.CHAT_MODEL = {json.dumps(content)};\n"


def choose(run: str) -> tuple[GPT, Tokenizer, dict]:
    """The last stage of that run if there is one that fits into a page, else the reference run."""
    from chatlib.notebook import reference
    from chatlib.report import last_stage, load_engine
    from chatlib.runs import Run

    if run in Run.names() and "rl" in Run.open(run).manifest:
        found = Run.open(run)
        engine = load_engine(found)
        if sum(p.numel() for p in engine.model.parameters()) <= LARGEST:
            return engine.model, engine.tokenizer, {"run": run, "stage": last_stage(found)}
    return reference.model("rl"), reference.tokenizer(), {"run": "reference", "stage": "rl"}


def write(path: Path, run: str) -> None:
    """Write the script for a run's model, or the reference run's, to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script(*choose(run)), encoding="ascii")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.page_model", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--run", default="laptop", help="whose model (default: laptop)")
    chosen = parser.parse_args(argv)
    write(chosen.path, chosen.run)
    print(f"{chosen.path}: {chosen.path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    ensure_venv()
    sys.exit(main(sys.argv[1:]))
