"""The metrics provider has a place but is not built: it must say so, and what works instead."""

import pytest

from kforecast.errors import ConfigError
from kforecast.metrics.kapacity import KapacitySource


def test_fetching_is_refused_with_the_way_that_works():
    with pytest.raises(ConfigError, match="not built yet") as caught:
        KapacitySource(address="localhost:9090", targets=[]).fetch()
    assert "--dataset-file=FILE" in str(caught.value)
