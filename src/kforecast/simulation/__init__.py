"""Simulation: recorded load, the pods that serve it, and the numbers that their autoscaler scales on.

Used by ``evaluation`` for its short form and by ``replay`` for the whole one. It uses the policies of
``autoscaling``; ``forecasts`` asks a ``Predictor``. All other modules know neither forecasters nor files:
arrays in, arrays out.
"""
