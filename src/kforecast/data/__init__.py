"""From long frames to batches of windows."""
