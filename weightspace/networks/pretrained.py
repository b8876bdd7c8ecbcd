"""Pre-trained values that untrained networks of an architecture begin at, in place of what their seeds draw."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.runtime import checks
from weightspace.storage.typed import from_json


@dataclass(frozen=True)
class Pretrained:
    """Tensors of a file that a network begins at; those that it lacks, such as a head, are drawn from each seed.

    A collection on disk keeps the checksum alone: its networks are all there, and no path can break. Only what begins
    anew, such as rewinding, asks for the file again, and takes no other.

    Args:
        sha256: Checksum of the file.
        read: Function that returns its tensors by the network's names; None where only the checksum is known.
    """

    sha256: str
    read: Callable[[], Mapping[str, Tensor]] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        checks.text(self.sha256, "sha256")

    def put_into(self, module: nn.Module) -> None:
        """Give a module the values of the file.

        Args:
            module: Module that is changed in place.

        Raises:
            InputError: The file is not known.
        """
        if self.read is None:
            raise InputError(
                f"these networks began at pre-trained weights (checksum {self.sha256[:16]}), which are needed to begin "
                "there again: give the task that names the folder of the body, such as "
                "language.classification(..., body=folder) (--text.body FOLDER)"
            )
        own = module.state_dict(keep_vars=True)
        for name, tensor in self.read().items():
            own[name].data.copy_(tensor)

    def known_by(self, other: "Pretrained | None") -> "Pretrained":
        """The same values, with the file that another names.

        Args:
            other: What a task begins at.

        Raises:
            InputError: The other is of another file.
        """
        if other is None or self.read is not None:
            return self
        if other.sha256 != self.sha256:
            raise InputError(
                f"the networks began at pre-trained weights of checksum {self.sha256[:16]}, and the task's body has "
                f"{other.sha256[:16]}: give the folder of the body that they began at"
            )
        return other

    def to_json(self) -> dict[str, Any]:
        """What files say: the checksum."""
        return {"sha256": self.sha256}

    @classmethod
    def from_json(cls, data: Any) -> "Pretrained":
        """The inverse of `to_json`; the file is not part of it.

        Args:
            data: The checksum as data.

        Raises:
            StorageError: A field is missing, unknown or of another type.
        """
        return cls(from_json(_Stored, data, "what networks begin at").sha256)


@dataclass(frozen=True)
class _Stored:
    """Pre-trained values in files."""

    sha256: str
