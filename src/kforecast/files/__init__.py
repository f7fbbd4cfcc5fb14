"""Files written completely or not at all, and files of unknown origin read safely.

``directory.py`` and ``output.py`` write a directory or file completely or not at all, ``lock.py`` admits
one writer at a time, ``run_folder.py`` owns the folder of a run. ``untrusted.py`` and ``torch_file.py``
read files of unknown origin in bounded memory and never execute their content.

Uses only ``errors``. Every other room may use it.
"""
