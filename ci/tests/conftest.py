"""A shell may start its background jobs deaf to Ctrl-C; the tests that send one need it heard."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
