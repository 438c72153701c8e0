"""What tells a student why an answer is wrong: one module a chapter."""


class Wrong(AssertionError):
    """An answer that is not right; the message says why."""
