"""The leaderboard of runs and sweep jobs: ``runs`` reads and ranks them, ``page`` writes the HTML page.

Used by ``kforecast-leaderboard``. It reads the files of runs only, and imports neither torch nor evaluation.
"""
