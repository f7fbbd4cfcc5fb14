"""Errors of TensorBoard's writer, which works in a thread of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def writer_errors_once() -> Iterator[None]:
    """Print no traceback when a background thread cannot write, inside the block.

    TensorBoard's writer raises the error of its thread again in the thread that writes next, where it is
    explained like any other. All other errors of threads are reported as before.
    """
    before = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if not issubclass(failure.exc_type, OSError):
            before(failure)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before
