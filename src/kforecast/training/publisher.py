"""Publisher: writes the artifact of a run, with a gate only after the model has passed it."""

from collections.abc import Mapping

from kforecast.artifact import Artifact, discard
from kforecast.console import short_path
from kforecast.evaluation.verdict import champion_shortfall, shortfall
from kforecast.files.directory import check_still_there
from kforecast.training.artifact_maker import ArtifactMaker
from kforecast.training.callbacks import ArtifactWriter
from kforecast.training.holdout import JudgedFit
from kforecast.training.module import ForecastModule
from kforecast.training.plan import Recipe


class Publisher:
    """Writes the artifact of a run; a gate keeps the earlier one until a model passes.

    Parameters
    ----------
    recipe:
        The recipe of the run; without an ``artifact_dir`` nothing is written.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._gate = recipe, recipe.settings.gate

    def writers(self, maker: ArtifactMaker) -> list[ArtifactWriter]:
        """The callback that writes the best artifact so far; none without an ``artifact_dir``."""
        recipe = self._recipe
        if recipe.artifact_dir is None:
            return []
        gated = self._gate.require_skill is not None or recipe.champion is not None
        target = recipe.candidate_dir if gated else recipe.artifact_dir

        def write(module: ForecastModule, first_time: bool) -> None:
            check_still_there(target.parent if first_time else target)
            maker.make(module.net).save(target)

        return [ArtifactWriter(write)]

    def shortfall(self, judged: JudgedFit) -> str | None:
        """Why the model does not pass the gate; None when it does, or without a gate."""
        gate = self._gate
        if (reason := self.skill_shortfall(judged)) is not None:
            return reason
        if gate.champion is not None and (reason := champion_shortfall(judged.scoreboard, gate.require_gain)):
            return f"gate not passed (gate.champion={gate.champion}): {reason}"
        return None

    def skill_shortfall(self, judged: JudgedFit, which: str = "") -> str | None:
        """Why the model does not pass ``gate.require_skill``; ``which`` names it in the reason."""
        needed = self._gate.require_skill
        if needed is not None and (reason := shortfall(judged.scoreboard, needed)):
            return f"gate not passed (gate.require_skill={needed:g}): {which}{reason}"
        return None

    def publish(self, artifact: Artifact, parts: Mapping[str, Artifact], rejected: str | None) -> str | None:
        """Write the artifact, with those of single series; a rejected one goes to the candidate's folder.

        Returns
        -------
        The reason for the rejection, with the place of the model; None when it was not rejected.
        """
        public, candidate = self._recipe.artifact_dir, self._recipe.candidate_dir
        assert public is not None
        target = public if rejected is None else candidate
        check_still_there(target.parent)
        artifact.save(target, parts)
        if rejected is None:
            discard(candidate)
            return None
        kept = f"{short_path(public)} is left as it was" if public.exists() else "nothing is published"
        return f"{rejected}; {kept}, the model is in {short_path(target)}"
