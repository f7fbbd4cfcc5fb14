"""Errors in the background thread of TensorBoard's writer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def writer_errors_once() -> Iterator[None]:
    """Inside the block, print no traceback when a background thread cannot write.

    TensorBoard's writer raises the error of its thread again in the thread that writes next, where it is
    explained like any other. All other errors of threads are reported as usual.
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
