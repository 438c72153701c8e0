"""One distribution of a trained model, and the knobs that bend and cut it before a draw."""

from collections.abc import Mapping

import torch

from chatlib.model import GPT
from chatlib.notebook.attention_explorer import readable
from chatlib.notebook.widget import HERE, Explorer
from chatlib.tokenizer import Tokenizer

SHOWN = 24  # tokens that get a bar


class SamplingKnobs(Explorer):
    """What may follow some texts, under a temperature, top-k, top-p and min-p to be moved.

    Parameters
    ----------
    texts : name -> text; the model's scores after a bos and the text go into the page.
    """

    _css = Explorer._css + (HERE / "sampling_knobs.css").read_text(encoding="utf8")

    def __init__(self, model: GPT, tokenizer: Tokenizer, texts: Mapping[str, str]):
        places = []
        for name, text in texts.items():
            ids = torch.tensor([[tokenizer.bos, *tokenizer.encode(text)]])
            with torch.no_grad():
                ranked, order = model(ids)[0, -1].sort(descending=True)
            places.append(
                {
                    "name": name,
                    "tokens": [readable(tokenizer, i) for i in order[:SHOWN].tolist()],
                    "logits": [round(score, 3) for score in ranked.tolist()],
                }
            )
        super().__init__(
            data={"places": places},
            alt=f"sampling settings at {len(places)} places of a text, over {len(ranked)} tokens",
        )
