"""Presentation of a scoreboard: words for the console, figures, the HTML page and the files of a report.

Used by ``evaluation.evaluation``, by training and by commands. It uses the judging modules of ``evaluation``
and the common look in ``pages``; no judging module imports it.
"""
