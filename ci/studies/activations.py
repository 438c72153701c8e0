"""What a layer keeps for the backward pass, compiled: `python -m ci.studies.activations`.

Compiles small models that differ in depth alone, in bfloat16 and with products in 8 bits, counts
the bytes that their forward pass saves, and writes book/data/activations.json. About four minutes;
the graph that is cut in two is the same on a CPU and a GPU, the kernels are not.
"""

import torch

from chatlib.model import GPT, GPTConfig
from chatlib.precision import use_float8
from ci.studies import shared

WIDTH, HEADS, CONTEXT, VOCABULARY = 256, 2, 1088, 512  # rows too long for a CPU's own attention
DEPTHS = (4, 8)


def kept(depth: int, fp8: bool, compiled: bool) -> dict[str, float]:
    """Bytes a token and channel that one forward pass saves, by type; parameters left out."""
    torch.compiler.reset()
    config = GPTConfig(VOCABULARY, depth, HEADS, HEADS, WIDTH, CONTEXT)
    model = GPT(config, torch.bfloat16)
    model.init_weights(0)
    if fp8:
        use_float8(model)
    saved = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        if CONTEXT in t.shape and t.shape.count(CONTEXT) == 1:  # grows with the tokens; no mask
            saved[t.untyped_storage().data_ptr()] = (t.dtype, t.untyped_storage().nbytes())
        return t

    forward = torch.compile(model, dynamic=False) if compiled else model
    ids = torch.randint(0, VOCABULARY, (1, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = forward(ids[:, :-1], ids[:, 1:], reduction="sum")
    assert loss.requires_grad  # it holds the graph until here
    sizes = {}
    for dtype, size in saved.values():
        name = str(dtype).removeprefix("torch.")
        sizes[name] = sizes.get(name, 0.0) + size / (CONTEXT * WIDTH)
    return sizes


def a_layer(fp8: bool, compiled: bool) -> dict[str, float]:
    """What each further layer keeps: the difference between two depths, over their distance."""
    less, more = (kept(depth, fp8, compiled) for depth in DEPTHS)
    steps = DEPTHS[1] - DEPTHS[0]
    found = {name: round((more[name] - less.get(name, 0.0)) / steps, 2) for name in more}
    return {name: size for name, size in found.items() if size}


def main() -> None:
    torch.set_num_threads(1)
    layers = {}
    for compiled in (False, True):
        for fp8 in (False, True):
            name = f"{'8 bits' if fp8 else 'bfloat16'}, {'' if compiled else 'not '}compiled"
            layers[name] = a_layer(fp8, compiled)
            print(f"{name:22} {sum(layers[name].values()):.1f} {layers[name]}", flush=True)
    result = {
        "what": "bytes a token, channel and layer that the forward pass keeps, by type",
        "model": {"depths": DEPTHS, "width": WIDTH, "heads": HEADS, "context": CONTEXT},
        "layers": layers,
    }
    shared.store("activations", result)


if __name__ == "__main__":
    main()
