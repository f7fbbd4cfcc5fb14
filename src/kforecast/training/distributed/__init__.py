"""One training in several processes, on one machine or on many.

``processes.py`` finds out which process this is, ``launch.py`` starts the others on this machine,
``process_group.py`` connects them before data is read, and ``threads.py`` shares the cores among them.

Uses ``config``, ``errors`` and ``training/result.py``. ``training`` and ``commands`` use it.
"""
