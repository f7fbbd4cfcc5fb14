"""Repeated training: a champion that serves, candidates that must beat it, and rollback to earlier champions.

``store`` keeps the artifacts and the history, ``report`` shows them. Used by ``kforecast-retrain``; it uses
``pages``, ``files`` and the constants of ``evaluation.champion``.
"""
