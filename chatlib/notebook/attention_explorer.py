"""Who looks at whom in a trained model: text x layer x head, to point at."""

import base64
from collections.abc import Mapping

import torch

from chatlib.model import GPT
from chatlib.notebook.widget import HERE, Explorer
from chatlib.tokenizer import SPECIAL_TOKENS, Tokenizer


class AttentionExplorer(Explorer):
    """Attention maps of a model for some texts; pick a head, point at a token, see what it reads.

    Parameters
    ----------
    texts : name -> text; each is read after a bos, up to `longest` tokens.
    start : the layer and head shown first.

    The weights are stored in the notebook in steps of 1/255, one byte each.
    """

    _css = Explorer._css + (HERE / "attention_explorer.css").read_text(encoding="utf8")

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        texts: Mapping[str, str],
        *,
        start: tuple[int, int] = (0, 0),
        longest: int = 72,
    ):
        shown = []
        for name, text in texts.items():
            ids = [tokenizer.bos, *tokenizer.encode(text)][:longest]
            maps = model.attention_maps(torch.tensor([ids]))[:, 0]  # (L, H, T, T)
            tokens = [readable(tokenizer, i) for i in ids]
            shown.append({"name": name, "tokens": tokens, "maps": pack(maps)})
        n_layer, n_head = model.config.n_layer, model.config.n_head
        super().__init__(
            data={"layers": n_layer, "heads": n_head, "start": list(start), "texts": shown},
            alt=f"attention of {n_layer} layers of {n_head} heads to {len(shown)} texts",
        )


def readable(tokenizer: Tokenizer, i: int) -> str:
    """A token as it can be shown: half a character as its byte, a special token without bars."""
    text = tokenizer.decode([i])
    if text in SPECIAL_TOKENS or i == tokenizer.bos:
        return "⟨bos⟩" if i == tokenizer.bos else text
    if "\ufffd" in text:
        return "".join(f"⟨{byte:02X}⟩" for byte in tokenizer.decode_bytes([i]))
    return text


def pack(maps: torch.Tensor) -> str:
    """Weights (L, H, T, T) at and below the diagonal, row by row, a byte each, in base64."""
    rows, columns = torch.tril_indices(*maps.shape[-2:])
    steps = (maps[..., rows, columns] * 255).round().to(torch.uint8)
    return base64.b64encode(steps.contiguous().numpy().tobytes()).decode()
