"""Autoscalers as arithmetic: the policies that a cluster applies to its metrics, over many services at once.

``policy`` holds the interface, ``calculator`` and ``stabilisation`` the arithmetic of the horizontal pod
autoscaler, and ``hpa``, ``keda`` and ``kapacity`` the three policies. ``formula`` evaluates KEDA's formulas,
``manifest`` reads policies from the YAML of a cluster. Everything is numpy over *lanes*; a lane is one
simulated service under one driver. Nothing here reads a clock or asks a server. Used by ``replay``; it uses
``errors``, ``validation`` and ``files``.
"""
