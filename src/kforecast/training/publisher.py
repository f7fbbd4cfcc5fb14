"""Where the artifact of a run goes: at once, or as a candidate until the gate lets it pass."""

from collections.abc import Mapping

from kforecast.artifact import Artifact, discard
from kforecast.console import short_path
from kforecast.evaluation.report.words import champion_shortfall, shortfall
from kforecast.files.directory import check_still_there
from kforecast.training.artifact_maker import ArtifactMaker
from kforecast.training.callbacks import ArtifactWriter
from kforecast.training.holdout import JudgedFit
from kforecast.training.module import ForecastModule
from kforecast.training.plan import Recipe


class Publisher:
    """Writes the artifact of a recipe; with a gate, nothing replaces the earlier one before a model passes.

    Parameters
    ----------
    recipe:
        What is trained; without an ``artifact_dir`` nothing is written.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self.artifact_dir = recipe, recipe.artifact_dir
        self.candidate_dir = recipe.run_dir / "candidate"

    def writers(self, maker: ArtifactMaker) -> list[ArtifactWriter]:
        """The callback that writes the artifact of the best epoch so far, if it is to be written."""
        if self.artifact_dir is None:
            return []
        gated = self._recipe.settings.gate.require_skill is not None or self._recipe.champion is not None
        target = self.candidate_dir if gated else self.artifact_dir

        def write(module: ForecastModule, first_time: bool) -> None:
            check_still_there(target.parent if first_time else target)
            maker.make(module.net).save(target)

        return [ArtifactWriter(write)]

    def shortfall(self, judged: JudgedFit) -> str | None:
        """Why the gate does not let a model pass; None when it does, or there is no gate."""
        gate, board = self._recipe.settings.gate, judged.scoreboard
        if (reason := self.skill_shortfall(judged)) is not None:
            return reason
        if gate.champion is not None and (reason := champion_shortfall(board, gate.require_gain)):
            return f"gate not passed (gate.champion={gate.champion}): {reason}"
        return None

    def skill_shortfall(self, judged: JudgedFit, which: str = "") -> str | None:
        """The same for the baselines alone; ``which`` says which of several models it is."""
        needed = self._recipe.settings.gate.require_skill
        if needed is not None and (reason := shortfall(judged.scoreboard, needed)):
            return f"gate not passed (gate.require_skill={needed:g}): {which}{reason}"
        return None

    def publish(self, artifact: Artifact, parts: Mapping[str, Artifact], rejected: str | None) -> str | None:
        """Write the finished artifact, with those of single series, where it belongs.

        Returns
        -------
        Why it was rejected, and what was done instead; None when it was not.
        """
        assert self.artifact_dir is not None
        target = self.artifact_dir if rejected is None else self.candidate_dir
        check_still_there(target.parent)
        artifact.save(target, parts)
        if rejected is None:
            discard(self.candidate_dir)
            return None
        kept = "nothing is published"
        if self.artifact_dir.exists():
            kept = f"{short_path(self.artifact_dir)} is left as it was"
        return f"{rejected}; {kept}, the model is in {short_path(target)}"
