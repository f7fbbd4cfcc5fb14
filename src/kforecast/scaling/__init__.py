"""From forecasts to replicas, in the place of Kapacity's predictive job (contract 7).

``portrait`` reads the HorizontalPortrait, ``replicas`` turns traffic into replicas, ``result`` writes the
ConfigMap, and ``kubernetes`` speaks to the API server for both. Used by ``kforecast-scale``; it uses
``metrics``, ``files`` and ``validation``.
"""
