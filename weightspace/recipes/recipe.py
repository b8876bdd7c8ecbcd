"""Recipe: how one network is trained, and Step: when something happens."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from weightspace.errors import InputError
from weightspace.recipes.optimizers import SGD, Adam
from weightspace.recipes.schedule import Schedule
from weightspace.recipes.step import Step


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Args:
        crop: Largest shift of an image, in pixels; zeros come in.
        flip: Whether images are mirrored left and right with probability one half.
    """

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise InputError(f"crop is a number of pixels, got {self.crop}")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run but the data and the seed.

    Args:
        length: Duration of training, such as "30ep".
        batch_size: Samples in a step; the last batch of an epoch may be smaller.
        optimizer: Optimiser with its learning rate and weight decay.
        schedule: Learning-rate schedule; a name such as "cosine" is enough.
        augmentation: Random changes of training images.
        watch: Distance between two looks at the validation split, such as "100it"; records then have a "curve". It
            changes nothing else. Steps that a finder takes itself (RigL's updates, trained scores) are left out.
    """

    length: Step = Step(epochs=30)
    batch_size: int = 64
    optimizer: Adam | SGD = field(default_factory=Adam)
    schedule: Schedule | str = Schedule()
    augmentation: Augmentation = Augmentation()
    watch: Step | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", Step.of(self.length))  # "30ep" will do
        if self.watch is not None:
            object.__setattr__(self, "watch", Step.of(self.watch))
            if self.watch == Step():
                raise InputError("watch is how often to look at the validation split: at least every iteration, '1it'")
        if not self.length.epochs and not self.length.iterations:
            raise InputError("the length of training must be at least one iteration")
        if self.batch_size < 1:
            raise InputError(f"the batch size must be at least 1, got {self.batch_size}")
        if not isinstance(self.optimizer, Adam | SGD):
            raise InputError(f"the optimizer must be an Adam(...) or SGD(...), got {self.optimizer!r}")
        if isinstance(self.schedule, str):
            object.__setattr__(self, "schedule", Schedule(self.schedule))  # pyright: ignore[reportArgumentType]

    def per_epoch(self, samples: int) -> int:
        """Iterations in an epoch. A single left-over sample joins the last batch: BatchNorm needs two."""
        full, rest = divmod(samples, self.batch_size)
        return max(1, full + (rest > 1 or (rest == 1 and not full)))

    def lr_factor(self, step: int, total: int, per_epoch: int) -> float:
        """What the learning rate is multiplied by in iteration `step` (from 0) of `total`."""
        assert isinstance(self.schedule, Schedule)
        return self.schedule.factor(step, total, per_epoch)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_json`."""
        settings = dict(data["optimizer"])
        kind = {"SGD": SGD, "Adam": Adam}[settings.pop("name")]
        if "betas" in settings:
            settings["betas"] = tuple(settings["betas"])
        schedule = dict(data["schedule"])
        schedule["warmup"] = Step.of(schedule["warmup"])
        schedule["milestones"] = tuple(Step.of(m) for m in schedule["milestones"])
        return cls(
            Step.of(data["length"]), data["batch_size"], kind(**settings), Schedule(**schedule),
            Augmentation(**data["augmentation"]), Step.of(data["watch"]) if "watch" in data else None,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The recipe as data, as it is in records and in the configuration of a run."""
        assert isinstance(self.schedule, Schedule)
        schedule = {
            "shape": self.schedule.shape, "warmup": str(self.schedule.warmup),
            "milestones": [str(m) for m in self.schedule.milestones], "gamma": self.schedule.gamma,
        }  # fmt: skip
        return {
            "length": str(self.length), "batch_size": self.batch_size,
            "optimizer": {"name": type(self.optimizer).__name__, **_plain(self.optimizer)},
            "schedule": schedule, "augmentation": asdict(self.augmentation),
        } | ({} if self.watch is None else {"watch": str(self.watch)})  # fmt: skip


def _plain(settings: Any) -> dict[str, Any]:
    """A dataclass as it comes back from JSON: tuples are lists there."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
