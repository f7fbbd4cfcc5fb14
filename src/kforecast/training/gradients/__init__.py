"""The loss of a network and its gradient, without Lightning.

``automatic.py`` uses autograd and works for every network. ``fcnet.py`` computes the gradient of Fcnet
without autograd; otherwise a whole training would take 1.7 times the CPU time. ``steps.py`` takes the steps.

Uses ``models`` and ``data``. Only ``training/module.py`` uses it.
"""
