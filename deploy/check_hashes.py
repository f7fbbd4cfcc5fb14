"""Refuse downloaded files that are not those of constraints.lock.

python check_hashes.py constraints.lock FOLDER [torch ...]

Packages that are named are left out: of torch an image takes a build for CPUs, which the lock does not know.
"""

import hashlib
import re
import sys
from pathlib import Path


def check(lock: Path, folder: Path, left_out: list[str]) -> list[str]:
    """Names of the files whose sha256 the lock does not have."""
    known = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock.read_text(encoding="utf-8")))
    return [
        file.name
        for file in sorted(folder.iterdir())
        if re.split(r"-\d", file.name)[0].lower().replace("_", "-") not in left_out
        and hashlib.sha256(file.read_bytes()).hexdigest() not in known
    ]


if __name__ == "__main__":
    strangers = check(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    if strangers:
        sys.exit(f"error: not in {sys.argv[1]}: {', '.join(strangers)}")
