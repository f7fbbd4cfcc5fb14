"""Checkpoints, and runs that continue or repeat an earlier one.

``checkpoints.py`` writes the state of a training and restores it to the same weights, ``reading.py`` reads
such a file without trusting it, ``earlier_run.py`` finds the run that ``resume=`` or ``--repeat`` names.

Uses ``config``, ``files`` and the callbacks of ``training``. ``training`` and ``commands`` use it.
"""
