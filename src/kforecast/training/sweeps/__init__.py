"""Many trainings of one command (``-m``): searches, rankings, and their overview in TensorBoard.

``search.py`` is the Optuna search and ``space.py`` the space that it searches, ``ranking.py`` ranks the
finished jobs, ``hparams_board.py`` shows them side by side.

Uses ``config``, ``files`` and ``training/result.py``. Hydra loads the search and the ranking by name from
``conf/``; ``commands`` uses it, too.
"""
