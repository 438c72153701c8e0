"""What would it cost? The planner, in the page."""

from dataclasses import asdict, replace

from chatlib import planner, scaling
from chatlib.loss import CHUNK
from chatlib.notebook.widget import HERE, Explorer
from chatlib.scaling import Scale, get_scale


class CostPlanner(Explorer):
    """GPUs, price, depth, ratio and MFU in; hours, dollars and memory a GPU out.

    Its JavaScript repeats `chatlib.scaling` and `chatlib.planner` for scales whose tokens and batch
    follow from the depth; all rates and laws are handed to it here, and a test holds the two equal.

    Parameters
    ----------
    scale : where the dials stand at first.
    device, gpus : likewise.
    """

    _css = Explorer._css + (HERE / "cost_planner.css").read_text(encoding="utf8")

    def __init__(self, scale: Scale | None = None, device: str = "H100", gpus: int = 8):
        scale = scale or get_scale("node")
        at_reference = scaling.model_config(replace(scale, depth=scaling.REFERENCE_DEPTH))
        super().__init__(
            data={
                "scale": asdict(scale),
                "reference_scaling": scaling.count_parameters(at_reference).scaling,
                "reference_batch": scaling.REFERENCE_BATCH,
                "devices": [asdict(d) for d in planner.DEVICES.values()],
                "rates": asdict(planner.RATES),
                "error": planner.ERROR,
                "kept": planner.KEPT,
                "tile": planner.TILE,
                "overhead": planner.OVERHEAD,
                "chunk": CHUNK[True],
                "start": {"device": device, "gpus": gpus},
            },
            alt="a planner: choose GPUs, price, depth, tokens a parameter and speed, and read what "
            "the run takes",
        )
