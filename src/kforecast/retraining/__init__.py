"""Training again and again: a champion that serves, candidates that must beat it, and the way back."""
