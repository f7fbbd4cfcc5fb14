"""The result that Kapacity's controller reads: points in time, in a ConfigMap (contract 7)."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

import numpy as np

from kforecast.errors import ConfigError, OutputError
from kforecast.scaling.kubernetes import Kubernetes, StatusError
from kforecast.scaling.portrait import API_VERSION, KIND, Portrait

# A ConfigMap holds 1 MiB; a point takes about 20 bytes.
_MOST_POINTS = 20_000
# Others may change the ConfigMap between our reading and writing.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Points:
    """Replicas over time: each counts from its moment until the next one.

    Attributes
    ----------
    moments:
        Unix seconds, int64 ``[points]``, ascending.
    replicas:
        int64 ``[points]``.
    end:
        Unix seconds at which the last one ends.
    """

    moments: np.ndarray
    replicas: np.ndarray
    end: int

    def every(self, seconds: int) -> "Points":
        """The points at multiples of some seconds: the most replicas that each of them meets.

        Raises
        ------
        ConfigError
            When they are too many for a ConfigMap.
        """
        moments = np.arange(self.moments[0] // seconds * seconds, self.end, seconds, dtype=np.int64)
        if len(moments) > _MOST_POINTS:
            raise ConfigError(
                f"--scaling-freq: {seconds} s make {len(moments):,} points, and a ConfigMap holds about "
                f"{_MOST_POINTS:,}; use a coarser one"
            )
        return Points(moments, self._most(moments, moments + seconds), self.end)

    def ahead(self, seconds: int) -> "Points":
        """The points with every rise of replicas moved earlier, and every fall where it is."""
        moments = self.moments
        if seconds:
            earlier = moments - seconds
            moments = np.union1d(moments, earlier[earlier > moments[0]])
        replicas = self._most(moments, moments + seconds + 1)
        changed = np.append(True, np.diff(replicas) != 0)
        kept = changed | np.isin(moments, self.moments)
        return Points(moments[kept], replicas[kept], self.end)

    def _most(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """The most replicas in each span from ``begin`` until before ``end``."""
        first = np.maximum(np.searchsorted(self.moments, begin, side="right") - 1, 0)
        last = np.searchsorted(self.moments, end, side="left")
        # reduceat takes pairs of positions; those between pairs do not matter, but must exist.
        pairs = np.column_stack([first, last]).reshape(-1)
        most: np.ndarray = np.maximum.reduceat(np.append(self.replicas, 0), pairs)[::2]
        return most

    def data(self) -> dict[str, str]:
        """The ``data`` of the ConfigMap."""
        points = {str(int(t)): int(n) for t, n in zip(self.moments, self.replicas, strict=True)}
        end = datetime.fromtimestamp(self.end, UTC)
        return {
            "type": "TimeSeries",
            "expireTime": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            "timeSeries": json.dumps(points),
        }


def write(api: Kubernetes, portrait: Portrait, points: Points) -> str:
    """Write the result of a portrait; return ``NAMESPACE/NAME`` of the ConfigMap.

    Raises
    ------
    OutputError
        When others keep changing the ConfigMap.
    SourceError
        When the API server does not answer, or refuses to.
    """
    name, data = f"{portrait.name}-result", points.data()
    collection = f"/api/v1/namespaces/{quote(portrait.namespace)}/configmaps"
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": portrait.name,
        "uid": portrait.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {"name": name, "namespace": portrait.namespace, "ownerReferences": [owner]}
    new = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    for _ in range(_ATTEMPTS):
        try:
            current = api.get(f"{collection}/{quote(name)}")
        except StatusError as error:
            if error.status != 404:
                raise
            current = None
        try:
            if current is None:
                api.post(collection, new)
            else:
                api.put(f"{collection}/{quote(name)}", current | {"data": data})
        except StatusError as error:
            # Created, changed or deleted since it was read; 404 to a POST means another thing.
            if error.status not in ((409,) if current is None else (404, 409)):
                raise
        else:
            return f"{portrait.namespace}/{name}"
    raise OutputError(
        f"ConfigMap {portrait.namespace}/{name}: changed by others at each of {_ATTEMPTS} attempts; does "
        "another job write it?"
    )
