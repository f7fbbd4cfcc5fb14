"""The location of conf/, also for code that reads its files without Hydra."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel inside the package, in a checkout at the top of the repository.
CONF_DIR = next(
    (d for d in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if d.is_dir()), _PACKAGE / "conf"
)
