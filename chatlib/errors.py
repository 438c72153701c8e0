"""The one exception that speaks to the reader."""


class ChatlibError(Exception):
    """A mistake the user can mend: one sentence says what was wrong and what to do."""
