"""Tables that say what came of it."""

from rich.table import Table

from kforecast.console import render
from kforecast.evaluation.backtest import Scoreboard


def score_table(scoreboard: Scoreboard) -> str:
    """The model beside naive forecasts, and in words whether it is worth having."""
    table = Table(title=f"Forecast error on {scoreboard.span}", title_justify="left")
    table.add_column("forecast")
    table.add_column("MAE", justify="right")
    table.add_column("WAPE", justify="right")
    best = min(scoreboard.scores, key=lambda name: scoreboard.scores[name].wape)
    for name, scores in scoreboard.scores.items():
        style = "bold" if name == best else None
        table.add_row(name, f"{scores.mae:.4g}", f"{scores.wape:.2%}", style=style)
    return f"{render(table)}\n{verdict(scoreboard)}"


def verdict(scoreboard: Scoreboard) -> str:
    """One sentence."""
    name, skill = scoreboard.best_naive, scoreboard.skill
    if skill > 0:
        return f"The model's error is {skill:.0%} lower than that of the best naive forecast ({name})."
    return (
        f"The model is no better than a naive forecast: its error is {-skill:.0%} above that of {name!r}. "
        "More history, more epochs or a longer context may help; do not scale on it as it is."
    )


def facts_table(title: str, facts: dict[str, str]) -> str:
    """Names and values in two columns."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return render(table)
