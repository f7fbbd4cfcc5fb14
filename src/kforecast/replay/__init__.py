"""Replay: recorded traffic, a simulated service, and the autoscaler that is really deployed.

Used by ``kforecast-replay``. It uses the policies of ``autoscaling``, the costs of ``evaluation`` and
forecasts of a ``Predictor``. The simulation (``load``, ``service``, ``drivers``, ``simulation``,
``outcomes``) knows neither forecasters nor files: arrays in, arrays out.
"""
