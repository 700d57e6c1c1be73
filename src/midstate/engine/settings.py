"""Settings of the training loop."""

from dataclasses import dataclass, field

from midstate.common import checks
from midstate.common.times import steps_of
from midstate.engine.sensitivity import KINDS

DEVICES = ("auto", "cpu", "cuda")
MOST_THREADS = 1024  # what cannot be begun aborts the process
MODES = ("train", "finetune")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


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

    def __post_init__(self) -> None:
        checks.integer("epochs", self.epochs, 1)
        checks.integer("batch_size", self.batch_size, 1)
        checks.number("label_smoothing", self.label_smoothing, 0, 1)
        if self.clip_norm is not None:
            checks.number("clip_norm", self.clip_norm, 1e-12)
        if self.max_steps_per_epoch is not None:
            checks.integer("max_steps_per_epoch", self.max_steps_per_epoch, 1)
        checks.one_of("mode", self.mode, MODES)
        checks.one_of("device", self.device, DEVICES)
        if self.threads != "auto":
            checks.integer("threads", self.threads, 1, MOST_THREADS)
        checks.boolean("probes", self.probes)
        checks.one_of("precision", self.precision, PRECISIONS)
        for name in ("channels_last", "compile", "sync_batchnorm"):
            checks.boolean(name, getattr(self, name))
        checks.integer("accumulate", self.accumulate, 1)
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate={self.accumulate}: must be at most batch_size={self.batch_size}")
        if self.ema is not None:
            checks.number("ema", self.ema, 0, 1)
        for name in ("mixup", "cutmix"):
            checks.number(name, getattr(self, name), 0)
        if self.sensitivity is not None:
            checks.number("sensitivity", self.sensitivity, 0, 1)
        for kind in checks.texts("sensitivity_kinds", self.sensitivity_kinds, ",".join(KINDS)):
            checks.one_of("sensitivity_kinds", kind, KINDS)
        if not isinstance(self.checkpoint_every, str) or steps_of("checkpoint_every", self.checkpoint_every, 1, 1) < 1:
            raise ValueError(
                f"checkpoint_every={self.checkpoint_every!r}: must be epochs such as '1ep' or steps such as '500it'"
            )
