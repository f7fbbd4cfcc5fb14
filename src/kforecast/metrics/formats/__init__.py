"""Files that other tools export, read as the four columns of contract 3.

``forms.py`` recognises a file by its first bytes and refuses others by name; ``tables.py``, ``answers.py``
and ``influx.py`` read them. ``names.py`` decides what becomes of columns and labels, ``numbers.py`` reads
numbers with units and separators. ``text.py`` opens text of any compression, ``parts.py`` folders of Parquet
files.

Used by ``metrics/csv.py``. Uses the checks of ``metrics`` and the rooms below it.
"""
