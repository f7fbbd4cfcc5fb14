"""Training a model: from a checked configuration and a panel to trained weights and an artifact.

``plan.py`` checks the configuration and makes the recipe of a run. ``run.py`` executes it from start to end:
``assemble.py`` builds network, data and trainer, ``fit.py`` trains, ``holdout.py`` judges the result,
``artifact_maker.py`` makes the artifact, ``publisher.py`` writes it and ``outcome.py`` reports it. Lightning
calls ``module.py`` and ``callbacks.py``. ``from_frame.py`` is ``kforecast.train``. Resuming, distributed
runs, sweeps and gradients have packages of their own.

Uses ``config``, ``evaluation``, ``predictor``, ``models`` and ``data``. Only ``commands`` uses it, and the
package exports ``kforecast.train``.
"""
