"""Replay: recorded traffic, a simulated service, and the autoscaler that is really deployed.

Used by ``kforecast-replay``. It searches a setting with ``simulation``, judges it with the intervals of
``evaluation``, and uses the policies of ``autoscaling``.
"""
