"""The loss of a network and its gradient, without Lightning.

``automatic.py`` uses autograd and works for every network; ``fcnet.py`` has the gradient of Fcnet written
out, because a whole training takes 1.7 times the CPU time without it.

Uses ``models`` and ``data``. Only ``training/module.py`` uses it.
"""
