"""The training of the weights that come with the package: resumable, and the same for the same seed."""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from kforecast.files.output import replace_file
from kforecast.intervals import LEVELS
from kforecast.models.network import pinball
from kforecast.models.pretrained import QUANTILES, TrafficNet
from kforecast.pretraining.samples import Samples, generated

# Seeds of the shards that judge begin here; those that train are far below.
VALIDATION_SEED = 1_000_000
_STATE, _LOG = "state.pth", "log.jsonl"
_WARM_UP, _LEAST_RATE, _AVERAGED = 500, 0.005, 1000
_CLIP, _WEIGHT_DECAY, _BETAS = 1.0, 1e-3, (0.9, 0.98)


@dataclass(frozen=True)
class Schedule:
    """How long and how to train.

    Attributes
    ----------
    shards:
        Number of shards of generated traffic; each is seen once.
    batch:
        Samples per step.
    rate:
        The largest learning rate; it falls along half a cosine.
    seed:
        Seed of weights, order and traffic.
    """

    shards: int = 100
    batch: int = 1024
    rate: float = 2e-3
    seed: int = 42


def _losses(made: Tensor, target: Tensor) -> Tensor:
    """The loss of quantiles [M, N, Q], float32 [N]."""
    return pinball(target[None, :, None] - made, QUANTILES)


class Pretraining:
    """A training in a folder: begun anew, or resumed from its last whole shard.

    Parameters
    ----------
    folder:
        Holds ``state.pth`` and ``log.jsonl``.
    net:
        The network to begin with.
    extra:
        More samples (of recordings), of which ``share`` of each shard is drawn; None for none.
    """

    def __init__(
        self,
        folder: Path,
        schedule: Schedule,
        net: TrafficNet,
        extra: Samples | None = None,
        share: float = 0.3,
    ) -> None:
        self.folder, self.schedule, self.extra, self.share = folder, schedule, extra, share
        self.net, self.average = net, copy.deepcopy(net).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(net.parameters(), weight_decay=_WEIGHT_DECAY, betas=_BETAS)
        self.shard = self.step = 0
        self.samples, self.seconds = 0, 0.0
        if (folder / _STATE).exists():
            self._resume()

    def run(self, judge: Callable[[TrafficNet], dict[str, float]], say: Callable[[str], None]) -> TrafficNet:
        """Train to the end of the schedule; ``judge`` scores the averaged weights every tenth of it."""
        every = max(1, self.schedule.shards // 10)
        while self.shard < self.schedule.shards:
            begun = time.process_time()
            loss = self._train_on(self._samples())
            self.shard += 1
            self.seconds += time.process_time() - begun
            line: dict[str, float] = {
                "shard": self.shard,
                "samples": self.samples,
                "seconds": round(self.seconds),
            }
            line["loss"] = round(loss, 4)
            if self.shard % every == 0 or self.shard in (1, self.schedule.shards):
                line |= judge(self.average)
                say("  ".join(f"{name} {value:g}" for name, value in line.items()))
            self._keep(line)
        return self.average

    def _samples(self) -> Samples:
        made = generated(self.schedule.seed * 10_000 + self.shard)
        if self.extra is None:
            return made
        count = int(len(made) * self.share / (1 - self.share))
        drawn = torch.randint(len(self.extra), (count,), generator=self._random())
        return Samples.joined([made, self.extra.drawn(drawn)])

    def _random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.schedule.seed * 10_000 + self.shard)

    def _train_on(self, samples: Samples) -> float:
        """One pass over a shard; returns its mean loss."""
        schedule, total, count = self.schedule, 0.0, 0
        order = torch.randperm(len(samples), generator=self._random())
        # A batch that is not full is left out.
        for begin in range(0, len(order) - schedule.batch + 1, schedule.batch):
            chosen = order[begin : begin + schedule.batch]
            done = (self.shard + count * schedule.batch / len(samples)) / schedule.shards
            rate = min(1, self.step / _WARM_UP) * max(_LEAST_RATE, (1 + math.cos(math.pi * done)) / 2)
            for group in self.optimizer.param_groups:
                group["lr"] = schedule.rate * rate
            rows = samples.rows(chosen)
            loss = _losses(self.net(rows.inputs), rows.target).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), _CLIP)
            self.optimizer.step()
            self.step, self.samples, count = self.step + 1, self.samples + len(chosen), count + 1
            kept = min(1 - 1 / _AVERAGED, self.step / (self.step + 100))
            with torch.no_grad():
                for mean, value in zip(self.average.parameters(), self.net.parameters(), strict=True):
                    mean.lerp_(value, 1 - kept)
            total += float(loss.detach())
        return total / max(1, count)

    def _keep(self, line: dict[str, float]) -> None:
        state = {
            "schedule": asdict(self.schedule),
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "place": [self.shard, self.step, self.samples, self.seconds],
        }
        replace_file(self.folder / _STATE, lambda file: torch.save(state, file))
        with (self.folder / _LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _resume(self) -> None:
        state = torch.load(self.folder / _STATE, weights_only=True)
        if state["schedule"] != asdict(self.schedule):
            raise ValueError(f"{self.folder} holds a training with other settings: {state['schedule']}")
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shard, self.step, self.samples, self.seconds = state["place"]


def offsets_of(net: TrafficNet, samples: Samples) -> Tensor:
    """Quantiles of the errors in units of the spread that the network forecasts, float64 [LEVELS]."""
    found = []
    with torch.inference_mode():
        for begin in range(0, len(samples), 8192):
            rows = samples.rows(slice(begin, begin + 8192))
            made = net(rows.inputs).mean(dim=0).sort(dim=-1).values
            spread = (made[:, -1] - made[:, 0]) / 2
            error = rows.target - made[:, len(QUANTILES) // 2]
            found.append((error / spread)[spread > 0])
    return torch.cat(found).double().quantile(torch.tensor(LEVELS, dtype=torch.float64))


def judged(net: TrafficNet, samples: Samples) -> tuple[float, float]:
    """Mean pinball loss and mean absolute error of the median."""
    loss = error = 0.0
    with torch.inference_mode():
        for begin in range(0, len(samples), 8192):
            rows = samples.rows(slice(begin, begin + 8192))
            made = net(rows.inputs)
            loss += float(_losses(made, rows.target).sum())
            error += float((made.mean(dim=0)[:, len(QUANTILES) // 2] - rows.target).abs().sum())
    return loss / len(samples), error / len(samples)
