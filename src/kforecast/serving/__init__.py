"""The resident server: newest history in, answers to autoscalers out.

``commands/serve.py`` uses it. It uses ``forecaster.py`` and the sources in ``metrics/``.
"""
