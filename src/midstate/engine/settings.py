"""Settings of the training loop."""

from dataclasses import dataclass, field

from midstate.common import training_limits
from midstate.engine.sensitivity import KINDS


@dataclass(frozen=True)
class Trainer:
    """Settings of the loop; see conf/trainer/default.yaml."""

    epochs: int
    batch_size: int
    label_smoothing: float
    clip_norm: float | None
    max_steps_per_epoch: int | None
    device: str
    threads: int | str
    probes: bool
    checkpoint_every: str
    probe_images: int = 1000
    recovery: bool = False
    sensitivity: float | None = None
    sensitivity_kinds: list[str] = field(default_factory=lambda: list(KINDS))
    precision: str = "fp32"
    channels_last: bool = False
    accumulate: int = 1
    compile: bool = False
    ema: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    sync_batchnorm: bool = False
    mode: str = "train"
    final_images: str = "test"

    def __post_init__(self) -> None:
        training_limits.trainer(vars(self))
