"""Where history comes from: one source per file, each of which returns the long frame of contract 3.

``source.py`` defines the MetricSource protocol and checks every frame. ``csv.py``, ``frame.py`` and
``synthetic.py`` are local sources. ``kapacity.py`` and ``prometheus.py`` ask a server; ``fetching.py`` does
the chunking, retries and merging for both. ``provider.py`` is the other side: a metrics provider for tests.

Uses only ``files`` and the rooms below it. ``data`` turns the frames into panels; ``config`` and
``commands`` validate and choose sources.
"""
