"""Files that other tools export, read as the four columns of contract 3; used by ``metrics/csv.py``."""
