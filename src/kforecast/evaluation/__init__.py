"""Judging of forecasts against baselines that cost nothing.

``backtest`` makes the forecasts of a span; ``scores``, ``skill``, ``capacity`` and ``champion`` judge them;
``scoreboard`` collects the results, ``report`` presents them. ``evaluation`` ties it together for
``Forecaster.evaluate`` and ``kforecast-evaluate``. Training judges its held-out data here too. This room uses
``predictor`` and below; it never imports ``forecaster``.
"""
