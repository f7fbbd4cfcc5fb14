"""Checkpoints, and runs that continue or repeat an earlier one.

``checkpoints.py`` writes and restores the state of a training, so that the weights are those of an
uninterrupted one; ``reading.py`` reads such a file without trusting it; ``random_state.py`` restores the
random generators; ``earlier_run.py`` finds the run that ``resume=`` or ``--repeat`` names.

Uses ``config``, ``files`` and the callbacks of ``training``. ``training`` and ``commands`` use it.
"""
