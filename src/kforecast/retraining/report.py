"""What happened to a champion over time: a table on the console, a page with a picture."""

from kforecast.console import table
from kforecast.retraining.store import Store


def publish(store: Store) -> None:
    """Write the page."""


def summary(store: Store) -> str:
    """The newest cycles, and who serves."""
    cycles = store.state.cycles[-10:]

    def percent(values: list[float | None]) -> list[str]:
        return ["" if value is None else f"{value:.2%}" for value in values]

    text = table(
        f"Cycles of {store.root}, newest last",
        {
            "time": [cycle.time[:16].replace("T", " ") for cycle in cycles],
            "candidate": [str(cycle.candidate or "") for cycle in cycles],
            "its WAPE": percent([cycle.candidate_wape for cycle in cycles]),
            "champion's": percent([cycle.champion_wape for cycle in cycles]),
            "skill over it": percent([cycle.skill for cycle in cycles]),
            "interval": [
                "" if cycle.low is None or cycle.high is None else f"{cycle.low:.1%} to {cycle.high:.1%}"
                for cycle in cycles
            ],
            "drift": ["" if cycle.drift is None else f"{cycle.drift:+.0%}" for cycle in cycles],
            "decision": [cycle.decision for cycle in cycles],
            "champion": [str(cycle.champion or "none") for cycle in cycles],
        },
        left=("time", "decision"),
    )
    return text
