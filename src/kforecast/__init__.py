"""kforecast: trains small traffic forecasters for autoscaling."""

__version__ = "0.1.0"
