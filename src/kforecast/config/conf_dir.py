"""Where conf/ is, for those who read a file of it without Hydra too."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside the package in a wheel, at the top of the repository in a checkout.
CONF_DIR = next(
    (d for d in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if d.is_dir()), _PACKAGE / "conf"
)
