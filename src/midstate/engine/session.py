"""The state of a run: network, pruner, optimizer, data, and everything that changes during training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from tqdm import tqdm

from midstate.common.errors import RunFailed
from midstate.data import Batches, Images
from midstate.distributed.processes import ALONE, Processes
from midstate.engine.mixup import Mixing
from midstate.engine.probes import GapProbe
from midstate.engine.recovery import Recovery
from midstate.optimizers import Rate
from midstate.quantization import Quantizer, follow
from midstate.sparsity import Pruner, Window
from midstate.sparsity.search import Search

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

    from midstate.engine.settings import Trainer


class Counting:
    """A progress bar that opens with the first count, and disappears when closed.

    Args:
        shown: whether this process shows the bar, and then only on a terminal.
        what: description of the work.
        unit: name of one count.
    """

    def __init__(self, shown: bool, what: str, unit: str) -> None:
        self.shown, self.what, self.unit = shown, what, unit
        self._bar: tqdm | None = None

    def update(self, to: int | None = None, total: int | None = None, text: str = "") -> None:
        """Count one more, or set the count to `to`; `total` is the count at the end, `text` stands behind the bar."""
        if self._bar is None:
            self._bar = tqdm(
                desc=self.what, unit=self.unit, total=total, initial=to or 0, leave=False,
                disable=None if self.shown else True,
            )  # fmt: skip
        if text and not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(1 if to is None else to - self._bar.n)

    def close(self) -> None:
        """Remove the bar; the next measurement opens another."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


@dataclass
class Session:
    """The state of a run: its parts, and everything that changes during training."""

    settings: "Trainer"
    data: Images
    model: nn.Module  # as it is evaluated and saved
    uses: dict[str, int]  # how often one image uses each weight of the plain model
    narrowed: dict[str, Any] | None  # the widths of a narrower network; None: the model's own
    pruner: Pruner
    optimizer: Optimizer
    rate: Rate
    batches: Batches
    probe: GapProbe | None
    forward: Callable[[Tensor], Tensor]  # the model for training: compiled if asked for, averages gradients
    scaler: GradScaler
    mixing: Mixing | None = None
    ema: "ModelEmaV3 | None" = None
    processes: Processes = ALONE
    quantizer: Quantizer | None = None
    recovery: Recovery | None = None
    measuring: Counting = field(init=False)
    searching: Counting = field(init=False)
    step: int = 0  # optimizer steps done
    rows: list[dict[str, Any]] = field(default_factory=list)  # metrics.csv, one row an epoch
    probe_rows: list[dict[str, Any]] = field(default_factory=list)  # probes.csv
    bit_rows: list[dict[str, Any]] = field(default_factory=list)  # bits.csv, one row an epoch and layer
    losses: list[float] = field(default_factory=list)  # losses.csv, the training loss of every step
    totals: dict[str, float] = field(default_factory=dict)  # sums over the epoch so far
    epoch_gap: float | None = None  # the epoch's largest gap_bn so far

    def __post_init__(self) -> None:
        self.measuring = Counting(self.processes.is_rank_zero, "measuring losses", "loss")
        self.searching = Counting(self.processes.is_rank_zero, "trying schemes", "episode")

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.settings.epochs * self.batches.steps_per_epoch

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def walkers(self) -> list[Pruner | Quantizer]:
        """The pruner, and the quantizer if there is one, in the order in which they act."""
        return [self.pruner, *([self.quantizer] if self.quantizer else [])]

    @property
    def dense(self) -> bool:
        """Tell whether nothing is pruned or quantised."""
        return self.pruner.method.dense and self.quantizer is None

    @property
    def search(self) -> Search | None:
        """The trials of schemes; None if no allocation tries any."""
        return next((walker.search for walker in self.walkers if walker.search), None)

    @property
    def num_episodes(self) -> int:
        """Number of schemes to try in all; only where there is a `search`."""
        return next(walker.method.allocation.episodes for walker in self.walkers if walker.search)

    @property
    def window(self) -> Window:
        """The window in which states change: the pruner's, or a quantizer's where nothing is pruned."""
        alone = self.quantizer is not None and self.pruner.method.dense
        return self.quantizer.window if alone else self.pruner.window

    def describe(self) -> str:
        """The present state of the weights in a few words."""
        pruned = [] if self.quantizer and self.pruner.method.dense else [self.pruner.describe(self.step)]
        return ", ".join([*pruned, *([self.quantizer.describe(self.step)] if self.quantizer else [])])

    def states(self) -> list[str]:
        """Names of the states at whose ends gaps are probed, dense first."""
        return self.quantizer.states() if self.quantizer and self.pruner.method.dense else self.pruner.states()

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def check_finite(self) -> None:
        """Raise RunFailed if a weight or buffer is not finite; called before a save, so that checkpoints are good."""
        for name, tensor in self.model.state_dict().items():
            if not bool(tensor.isfinite().all()):
                self.diverged(f"{name} holds numbers that are not finite")

    def diverged(self, what: str) -> NoReturn:
        """Raise RunFailed with what has happened, and where."""
        raise RunFailed(
            f"diverged: {what} at step {self.step} (epoch {len(self.rows) + 1}); "
            "a smaller optimizer.lr, or trainer.clip_norm=1, may help"
        )

    def check_same(self, what: str, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
        """Raise RunFailed if tensors differ between processes."""
        if differing := self.processes.differing(tensors):
            raise RunFailed(
                f"the {what} of {', '.join(names[i] for i in differing)} differ between processes at step {self.step}: "
                "they have drifted apart; the last checkpoint was saved before this"
            )

    def skipped(self) -> dict[str, str] | None:
        """Damaged images that any process has skipped, with the reason; None if images are not read from files."""
        if self.data.skipped is None:
            return None
        return {name: why for each in self.processes.gather(dict(self.data.skipped)) for name, why in each.items()}

    def synchronise(self) -> None:
        """Average BatchNorm's running statistics over all processes.

        Called before everything that depends on them: evaluations, checkpoints, scores from activations.
        """
        models = [self.model, *([self.ema.module] if self.ema else [])]
        self.processes.average([tensor for model in models for tensor in _statistics(model)])

    def follow_quantizer(self) -> None:
        """Restart the quantisers of the moving average where the quantizer has put new bits into force."""
        if self.ema and self.quantizer:
            follow(self.ema.module, self.model)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the moving average of the weights, if there is one, inside the context."""
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    @torch.no_grad()
    def take_average(self) -> None:
        """Replace the weights by their moving average, if there is one."""
        self._swap_average()
        self.ema = None

    @torch.no_grad()
    def _swap_average(self) -> None:
        if self.ema is None:
            return
        for own, mean in zip(_averageable(self.model), _averageable(self.ema.module), strict=True):
            kept = own.clone()
            own.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """All but the step that is needed to resume with the same bits; called by all processes."""
        self.synchronise()
        rng = self.processes.gather(torch.get_rng_state())
        skipped = self.skipped()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict(),
            "probe": self.probe.state if self.probe else 0,
            "rows": self.rows,
            "probe_rows": self.probe_rows,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "totals": self.totals,
            "epoch_gap": self.epoch_gap,
            "rng": rng if self.processes.size > 1 else rng[0],
            **({"device_rng": self.processes.gather(torch.cuda.get_rng_state(self.device))} if self._on_gpu else {}),
            **({"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}),
            **({"ema": self.ema.module.state_dict()} if self.ema else {}),
            **({"quantizer": self.quantizer.state_dict(), "bit_rows": self.bit_rows} if self.quantizer else {}),
            **({"just_pruned": self.recovery.just_pruned} if self.recovery else {}),
            **({} if skipped is None else {"skipped": skipped}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`, and the step that the checkpoint adds to it."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pruner.load_state_dict(state["pruner"])
        if self.quantizer:
            self.quantizer.load_state_dict(state["quantizer"])
            self.bit_rows = state["bit_rows"]
        if self.probe:
            self.probe.state = state["probe"]
        if self.recovery:
            self.recovery.just_pruned = state["just_pruned"]
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.follow_quantizer()
            self.ema.module.load_state_dict(state["ema"])
        self.step, self.rows, self.probe_rows = state["step"], state["rows"], state["probe_rows"]
        self.losses, self.totals, self.epoch_gap = state["losses"].tolist(), state["totals"], state["epoch_gap"]
        rng = state["rng"]
        if self.data.skipped is not None:
            self.data.skipped.update(state["skipped"])
        torch.set_rng_state((rng if torch.is_tensor(rng) else rng[self.processes.rank]).cpu())
        if self._on_gpu and "device_rng" in state:
            torch.cuda.set_rng_state(state["device_rng"][self.processes.rank].cpu(), self.device)


def _statistics(model: nn.Module) -> list[Tensor]:
    """Float buffers of a model's own layers; not those of parametrizations, which are equal in all processes."""
    return [buffer for name, buffer in model.named_buffers() if buffer.is_floating_point() and not _of_mask(name)]


def _averageable(model: nn.Module) -> list[Tensor]:
    """Tensors of the moving average: weights but for gates, which are open or closed, and BatchNorm statistics."""
    averaged = [p.detach() for name, p in model.named_parameters() if name.rpartition(".")[2] != "gates"]
    return [*averaged, *_statistics(model)]


def _of_mask(name: str) -> bool:
    return "parametrizations." in name
