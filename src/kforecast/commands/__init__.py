"""The command line: one file per ``kforecast-*`` command, and what all of them share.

``run.py`` starts every command: flags before Hydra, one line per error, the exit code. ``check_first.py``
validates all jobs of a sweep before the first one starts.

The top of the package: may use every room, and no room uses it.
"""
