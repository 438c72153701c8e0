"""The one exception that speaks to the reader."""


class ChatlibError(Exception):
    """A mistake the user can mend: its message says in one sentence what was wrong and what to do."""
