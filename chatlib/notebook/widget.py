"""Widgets that work in JupyterLab and, without a kernel, in the built page.

Each is a list of data and some JavaScript that draws it; the notebook stores both, and
book/_static/widgets.js brings them to life in the page.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import anywidget
import traitlets

HERE = Path(__file__).parent


class Explorer(anywidget.AnyWidget):
    """A widget whose code is make.js and `class_name.js` beside this file, on the book's colors.

    `data` is everything that its JavaScript knows (JSON); `alt` says in words what is to be seen.
    """

    _css = (HERE / "widgets.css").read_text(encoding="utf8")
    data = traitlets.Dict().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)

    def __init_subclass__(cls, **kwargs):
        if not hasattr(cls, "_esm"):
            script = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower() + ".js"
            scripts = (HERE / "make.js", HERE / script)
            cls._esm = "".join(path.read_text(encoding="utf8") for path in scripts)
        super().__init_subclass__(**kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.alt}"


class LossExplorer(Explorer):
    """The loss of a run, step by step: point at a step to read what the model wrote then.

    Parameters
    ----------
    rows : what `Metrics(path).rows()` gives: dicts with "step" and, where the run was looked at,
        "val_bpb" and perhaps "sample"; "loss" (nats a token) is drawn too if `bytes_per_token` is.
    samples : step -> text, instead of the samples in `rows`.
    floor : bits per byte that no model can beat, the entropy of the source.
    baselines : name -> bits per byte, for instance of compressors.
    bytes_per_token : turns training loss into bits per byte.
    """

    def __init__(
        self,
        rows: Iterable[Mapping],
        samples: Mapping[int, str] | None = None,
        floor: float | None = None,
        baselines: Mapping[str, float] | None = None,
        *,
        bytes_per_token: float | None = None,
    ):
        rows = list(rows)
        seen = {r["step"]: r["val_bpb"] for r in rows if r.get("val_bpb") is not None}
        if samples is None:
            samples = {r["step"]: r["sample"] for r in rows if r.get("sample")}
        looks = [
            {"step": step, "bpb": round(bpb, 4), "text": samples.get(step, "")}
            for step, bpb in sorted(seen.items())
        ]
        assert looks, "no row has a val_bpb to draw"
        train = []
        if bytes_per_token:
            per_nat = 1 / math.log(2) / bytes_per_token
            train = [[r["step"], round(r["loss"] * per_nat, 4)] for r in rows if "loss" in r]
            train = train[:: max(1, len(train) // 600)]
        levels = [{"name": n, "bpb": round(b, 4)} for n, b in (baselines or {}).items()]
        if floor is not None:
            levels.append({"name": "entropy floor", "bpb": round(floor, 4), "floor": True})
        super().__init__(
            data={"looks": looks, "train": train, "levels": levels},
            alt=f"validation loss falls from {looks[0]['bpb']:.2f} to {looks[-1]['bpb']:.2f} "
            f"bits per byte over {looks[-1]['step']:,} steps",
        )
