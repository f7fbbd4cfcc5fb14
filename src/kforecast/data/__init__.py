"""From rows to batches: reading, binning, cleaning, splitting and cutting of windows.

A source's rows are averaged into a Panel (``panel.py``, or ``mapped.py`` where it exceeds memory), split by
time into train, validation and test windows (``split.py``) and cut into batches (``windows.py``,
``loader.py``, ``datamodule.py``). ``quality.py`` and ``summary.py`` describe the data to the user.

Uses ``metrics`` and the rooms below it; knows no network. Everything above may use it.
"""
