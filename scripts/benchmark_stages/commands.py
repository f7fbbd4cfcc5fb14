"""Commands that run side by side and end together."""

import subprocess
import threading

_PATIENCE = 5.0  # seconds between asking a command to end and killing it


class CommandFailedError(Exception):
    """A command failed or was stopped; the message contains its last lines."""


class Commands:
    """Runs commands, from any thread, and can stop all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, *command: object, env: dict[str, str]) -> str:
        """Run a command to its end; return what it printed."""
        words = list(map(str, command))
        with self._lock:
            if self._stopped:
                raise CommandFailedError(f"{words[0]}: stopped")
            process = subprocess.Popen(
                words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            self._running.add(process)
        try:
            printed, errors = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode:
            last = "\n".join((printed + errors).splitlines()[-20:])
            raise CommandFailedError(f"{' '.join(words)} ended with {process.returncode}:\n{last}")
        return printed

    def stop(self) -> None:
        """End the running commands, and start no more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
