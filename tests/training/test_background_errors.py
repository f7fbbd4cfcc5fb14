"""Errors of background threads are reported once."""

import threading

from kforecast.training.background_errors import writer_errors_once


def failing(error: Exception) -> None:
    def work() -> None:
        raise error

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_errors_of_writing_are_left_to_the_next_write(monkeypatch) -> None:
    reported: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: reported.append(failure.exc_type))
    before = threading.excepthook
    with writer_errors_once():
        failing(OSError("no space"))
        failing(ValueError("a defect"))
    assert reported == [ValueError]
    assert threading.excepthook is before
