"""The configuration of a run: composed by Hydra, validated here, before any data is read.

``settings.py`` declares the type of every key we own and ``checks.py`` applies it. ``legacy_cli.py``
translates Kapacity's flags, ``overrides.py`` handles Hydra's override grammar, ``explain.py`` rewrites its
errors. ``allow_list.py`` and ``secrets.py`` refuse foreign classes and plain-text secrets.

Uses ``metrics``, ``data`` and ``intervals`` for the types of their settings. Only ``training`` and
``commands`` use it: the rooms below take ordinary typed arguments.
"""
