"""Recipe: how one network is trained, and Step: when something happens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weightspace.errors import InputError, StorageError
from weightspace.recipes.by_length import ByLength
from weightspace.recipes.optimizers import SGD, Adam
from weightspace.recipes.schedule import Schedule
from weightspace.recipes.step import Duration, OptionalDuration, Step, duration
from weightspace.runtime import checks
from weightspace.storage.spelling import spelling_of
from weightspace.storage.typed import from_json, to_json


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
        checks.settle(self, checks.count, "crop")
        checks.settle(self, checks.flag, "flip")


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
        max_gradient_norm: Norm that each network's gradient is cut to in every step (clipping by the global norm): that
            of all its trained entries together, penalties included, pruned and frozen ones left out. None does not cut.
        no_decay: Parameters without weight decay: "biases", "norms", and names or globs such as "embedding.*". A group
            of parameters with decay and one without are the usual way to train transformers.
        batches: How samples are gathered: `ByLength()` for token ids with padding; None gathers them at random.
    """

    length: Duration = duration("30ep")
    batch_size: int = 64
    optimizer: Adam | SGD = field(default_factory=Adam)
    schedule: Schedule | str = Schedule()
    augmentation: Augmentation = Augmentation()
    watch: OptionalDuration = duration(None)
    max_gradient_norm: float | None = None
    no_decay: tuple[str, ...] = ()
    batches: ByLength | None = None

    def __post_init__(self) -> None:
        checks.settle(self, Step.of, "length")  # "30ep" will do
        checks.settle_given(self, Step.of, "watch")
        if self.watch == Step():
            raise InputError("watch is how often to look at the validation split: at least every iteration, '1it'")
        if not self.length.epochs and not self.length.iterations:
            raise InputError("length, that of training, must be at least one iteration, got '0it'")
        checks.settle(self, checks.count, "batch_size", at_least=1)
        checks.settle(self, checks.instance, "optimizer", kinds=(Adam, SGD), wanted="an Adam(...) or SGD(...)")
        wanted = "an Augmentation(...)"
        checks.settle(self, checks.instance, "augmentation", kinds=Augmentation, wanted=wanted)
        checks.settle_given(self, checks.number, "max_gradient_norm", above=0)
        object.__setattr__(self, "no_decay", tuple(checks.several(self.no_decay, "no_decay", checks.text)))
        checks.settle_given(self, checks.instance, "batches", kinds=ByLength, wanted="a ByLength(...), or None")
        wanted = 'a Schedule(...), or the name of one, such as "cosine"'
        checks.settle(self, checks.instance, "schedule", kinds=(Schedule, str), wanted=wanted)
        if isinstance(self.schedule, str):
            checks.one_of(self.schedule, "schedule", ("constant", "cosine", "triangular"))
            object.__setattr__(self, "schedule", Schedule(self.schedule))  # pyright: ignore[reportArgumentType]

    def per_epoch(self, samples: int) -> int:
        """Iterations in an epoch. A single left-over sample joins the last batch: BatchNorm needs two."""
        samples = checks.count(samples, "samples", at_least=1)
        full, rest = divmod(samples, self.batch_size)
        return max(1, full + (rest > 1 or (rest == 1 and not full)))

    def lr_factor(self, step: int, total: int, per_epoch: int) -> float:
        """What the learning rate is multiplied by in iteration `step` (from 0) of `total`."""
        assert isinstance(self.schedule, Schedule)
        return self.schedule.factor(step, total, per_epoch)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_json`.

        Args:
            data: The recipe as data.

        Raises:
            StorageError: A field is missing, unknown, or has a value that is none of its type.
        """
        stored = from_json(_Stored, data, "a recipe")
        settings = {name: value for name, value in stored.optimizer.items() if name != "name"}
        kind = _OPTIMIZERS.get(stored.optimizer.get("name", ""))
        if kind is None:
            raise StorageError(
                f"a recipe is damaged (its optimizer is {stored.optimizer.get('name')!r}, expected one of "
                f"{', '.join(_OPTIMIZERS)}): restore it from a copy"
            )
        return cls(
            stored.length,
            stored.batch_size,
            from_json(kind, settings, "the optimizer of a recipe"),
            stored.schedule,
            stored.augmentation,
            stored.watch,
            stored.max_gradient_norm,
            stored.no_decay,
            stored.batches,
        )

    def to_json(self) -> dict[str, Any]:
        """The recipe as data, as it is in records and in the configuration of a run."""
        assert isinstance(self.schedule, Schedule)
        data: dict[str, Any] = {
            "length": str(self.length),
            "batch_size": self.batch_size,
            "optimizer": {"name": spelling_of(self.optimizer).name, **to_json(self.optimizer)},
            "schedule": to_json(self.schedule),
            "augmentation": to_json(self.augmentation),
        }
        if self.watch is not None:
            data["watch"] = str(self.watch)
        if self.max_gradient_norm is not None:
            data["max_gradient_norm"] = self.max_gradient_norm
        if self.no_decay:
            data["no_decay"] = list(self.no_decay)
        if self.batches is not None:
            data["batches"] = to_json(self.batches)
        return data


_OPTIMIZERS: dict[str, type[Adam | SGD]] = {"SGD": SGD, "Adam": Adam}


@dataclass(frozen=True)
class _Stored:
    """The fields of a recipe in files."""

    length: Step
    batch_size: int
    optimizer: dict[str, Any]
    schedule: Schedule
    augmentation: Augmentation
    watch: Step | None = None
    max_gradient_norm: float | None = None
    no_decay: tuple[str, ...] = ()
    batches: ByLength | None = None
