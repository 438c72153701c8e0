"""A real server in a thread, on a loopback port of its own, for tests."""

import contextlib
import socket
import threading
import time

from chatlib.server import create_app, listen, make_server


@contextlib.contextmanager
def serving(engine, name="tiny", *, send_buffer=None, **options):
    """Serve an engine while the block runs; gives the address and the scheduler."""
    app = create_app(engine, name, **options)
    listener = listen("127.0.0.1", 0)
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    service = app.app.state.service
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", service.scheduler, server
    server.should_exit = True
    thread.join(20)
    listener.close()
    assert not thread.is_alive()


def until(condition, seconds=30):
    """Wait for a condition that another thread makes true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()
