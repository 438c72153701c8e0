"""chatlib: the small library behind *From Bytes to Chat*."""

__version__ = "0.1.0"
