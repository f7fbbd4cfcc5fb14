"""Training a model: from a checked configuration and a panel to trained weights and an artifact.

``plan.py`` makes everything that needs no data, ``assemble.py`` builds network, data and trainer,
``fit.py`` runs them, ``holdout.py`` judges the result, ``artifact_maker.py`` makes the artifact and
``outcome.py`` reports it. Lightning calls ``module.py`` and ``callbacks.py``. ``from_frame.py`` is
``kforecast.train``. Resuming, distributed runs, sweeps and written-out gradients have rooms of their own.

Uses ``config``, ``evaluation``, ``predictor``, ``models`` and ``data``. Only ``commands`` uses it, and the
package exports ``kforecast.train``.
"""
