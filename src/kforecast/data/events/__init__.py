"""Traffic unlike other days, and how a forecast takes it into account.

``past.py`` finds outages and surges before an origin, so that a network does not repeat them. ``known.py``
reads the events that a user names, ``effects.py`` learns what they do to traffic, and ``incidents.py`` finds
in a whole history what a user may want to leave out.
"""
