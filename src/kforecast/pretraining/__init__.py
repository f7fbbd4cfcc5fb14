"""Pre-training: generated traffic of many kinds, and the training of the weights that come with the package.

``scripts/pretrain.py`` uses this room. It uses ``models`` and ``data``; nothing imports it at run time.
"""
