"""``source=kapacity``: the gRPC metrics provider (contract 4). Its place is here; it is not built yet."""

from typing import Any

import pandas as pd

from kforecast.errors import ConfigError


class KapacitySource:
    """The targets of a train-config.yaml, to be asked from the provider at ``address``."""

    def __init__(self, *, address: str, targets: list[dict[str, Any]]) -> None:
        self.address, self.targets = address, targets

    def fetch(self) -> pd.DataFrame:
        """Refuse: fetching over gRPC comes with the next version.

        Raises
        ------
        ConfigError
            Always, with the way that works today.
        """
        raise ConfigError(
            "source=kapacity (--metrics-server-addr) is not built yet in this version; export the metrics "
            "to a CSV and name it with --dataset-file=FILE or source=csv source.path=FILE"
        )
