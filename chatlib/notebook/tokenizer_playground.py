"""Type something and see its tokens: a trained tokenizer inside the page."""

from chatlib.notebook.widget import HERE, Explorer
from chatlib.tokenizer import Tokenizer

CONTRACTIONS = "'(?i:[sdmt]|ll|ve|re)"  # JavaScript may not know (?i:…); ſ is an s to Unicode


class TokenizerPlayground(Explorer):
    """Tokens, ids and bytes of a text that the reader types; the vocabulary is stored with it.

    Parameters
    ----------
    tokenizer : its tokens and its pattern go into the page, where JavaScript encodes.
    text : what is there at first.
    """

    _css = Explorer._css + (HERE / "tokenizer_playground.css").read_text(encoding="utf8")

    def __init__(self, tokenizer: Tokenizer, text: str = ""):
        super().__init__(
            data={
                "pattern": javascript_pattern(tokenizer.pattern),
                "tokens": [
                    token.decode("latin-1") for token in tokenizer.tokens
                ],  # a byte a letter
                "text": text,
            },
            alt=f"a field to type in, and its tokens under a vocabulary of {tokenizer.vocab_size}",
        )


def javascript_pattern(pattern: str) -> str:
    """A split pattern as JavaScript's regular expressions with the flag u write it."""
    either_case = "'(?:[sdmtSDMTſ]|[lL][lL]|[vV][eE]|[rR][eE])"
    assert CONTRACTIONS in pattern, "not one of our split patterns"
    pattern = pattern.replace(CONTRACTIONS, either_case)
    return pattern.replace(r"\s", r"\p{White_Space}").replace(r"\S", r"\P{White_Space}")
