"""How good a forecast is, beside forecasts that cost nothing."""
