"""Architecture: how to build the module of a collection.

A built-in network is known by name and arguments and can be written to disk. Any other module comes
from a factory, a function without arguments, that a user hands over again on loading.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from weightspace import models
from weightspace.errors import InputError, StorageError
from weightspace.networks.factories import made_by
from weightspace.networks.layout import Layout
from weightspace.networks.pretrained import Pretrained
from weightspace.networks.roles import mark
from weightspace.networks.uses import weights_by_use
from weightspace.networks.weight_norm import allow_zero_rows
from weightspace.runtime import checks, seeds
from weightspace.storage.typed import from_json

ADAPTERS = "LoRA of "
"""What names of architectures begin with that need a base."""
_SMALL = 2**16  # what an argument of a small network may be, such as the side of an image


@dataclass(frozen=True)
class Architecture:
    """A network factory with a name.

    Args:
        name: Name of a class in `weightspace.models`, or a label for a user's factory.
        arguments: Keyword arguments of the built-in class.
        factory: Function of a user's that returns a fresh module; None for built-in networks.
        prunable: Names of the parameters that may be pruned, or globs such as "encoder.*"; None is what the layers say
            (see `Layout.of`).
        recognised: Names of the parameters that may be pruned as a layout has them, or as their use showed; it is not
            part of what the architecture is, and goes before `prunable`.
        pretrained: Values that untrained networks begin at, such as those of a pre-trained body; None draws all of them
            from the seeds.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    factory: Callable[[], nn.Module] | None = field(default=None, compare=False)
    prunable: tuple[str, ...] | None = None
    recognised: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    pretrained: Pretrained | None = None

    def __post_init__(self) -> None:
        checks.text(self.name, "name", "MLP")
        checks.mapping(self.arguments, "arguments", "of the built-in class's arguments, such as {'sizes': (4, 3)}")
        checks.given(self.factory, "factory", checks.function, what="that returns a fresh module")
        checks.settle_given(self, _names, "prunable", "recognised")
        checks.given(self.pretrained, "pretrained", checks.instance, kinds=Pretrained, wanted="a Pretrained(...)")

    @classmethod
    def of(cls, factory: Callable[[], nn.Module], *, prunable: Sequence[str] | None = None) -> "Architecture":
        """An architecture that a user's factory builds, named after the function.

        Args:
            factory: Function that returns a fresh module.
            prunable: Names of the parameters that may be pruned, or globs such as "encoder.*", instead of those that
                the library finds; of these, the tensors of two or more axes.

        Raises:
            InputError: The names are a single string.
        """
        checks.function(factory, "factory", "that returns a fresh module")
        checks.given(prunable, "prunable", _names)
        chosen = None if prunable is None else tuple(prunable)
        return cls(getattr(factory, "__qualname__", type(factory).__name__), {}, factory, chosen)

    def following(self, layout: Layout) -> "Architecture":
        """The same architecture, of whose networks the tensors may be pruned that a layout says.

        Args:
            layout: Layout of the networks.
        """
        checks.instance(layout, "layout", Layout, "a Layout, such as networks.layout")
        return replace(self, recognised=tuple(entry.name for entry in layout.weights))

    def recognise(self, example: Any) -> "Architecture":
        """The same architecture, with prunable weights that only their use in a forward pass shows.

        A parameter of two or more axes is a weight if a product of matrices, a convolution or a lookup takes it
        together with something that depends on the inputs. Built-in networks, and those whose prunable weights were
        named, stay as they are; so do modules that do not run on the example (`Task.try_out` says why).

        Args:
            example: A few inputs, as the networks take them.
        """
        if self.factory is None or self.prunable is not None or self.recognised is not None:
            return self
        module = self.build_seeded(0)
        layout = Layout.of(module)
        names = weights_by_use(module, layout, example)
        return self if names == tuple(e.name for e in layout.weights) else replace(self, recognised=names)

    @property
    def known(self) -> bool:
        """True if a module can be built: a user's factory is there, or the network is built in."""
        return self.factory is not None or isinstance(getattr(models, self.name, None), type)

    def build(self) -> nn.Module:
        """A fresh module, initialised from PyTorch's global random state.

        Raises:
            InputError: No built-in network of this name exists, it refuses its arguments, or what was named as prunable
                is not.
        """
        module = allow_zero_rows(self._built())
        if self.recognised is not None:
            return mark(module, self.recognised)
        if self.prunable is not None:
            return mark(module, [entry.name for entry in Layout.of(module, prunable=self.prunable).weights])
        return module

    def _built(self) -> nn.Module:
        if self.factory is not None:
            return made_by(self.factory, self.name)
        built_in = {k: v for k, v in vars(models).items() if isinstance(v, type) and issubclass(v, nn.Module)}
        if self.name.startswith(ADAPTERS):
            raise InputError(
                f"these networks are adapters ({self.name}), which stand beside a base: open them with "
                "adapt.LoRA.load(folder, base) (--adapters-of FOLDER, of the base)"
            )
        if self.name not in built_in:
            raise InputError(
                f"no built-in network is called {self.name!r} (there are {', '.join(sorted(built_in))}); "
                "for a network of your own pass factory= (--factory), a function that returns a fresh module"
            )
        try:
            return built_in[self.name](**self.arguments)
        except TypeError as error:
            raise InputError(
                f"{self.name} cannot be built from {dict(self.arguments)}: {error}; give the arguments that it takes"
            ) from error

    def require(self, layout: Layout, what: str) -> None:
        """Raise StorageError unless a built-in network that a file names has the tensors that the file says.

        The network is built without memory for its weights, as its arguments come from the file too. What a user's
        factory builds is compared elsewhere.

        Args:
            layout: Layout of the stored networks.
            what: The file, for the error.
        """
        kind = getattr(models, self.name, None)
        if self.factory is not None or not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            return
        limit = max(layout.size, _SMALL)
        try:
            if any(abs(number) > limit for number in _numbers(self.arguments)):
                raise ValueError(f"a number above {limit:,}, in a network of {layout.size:,} weights")
            with torch.device("meta"):
                state = kind(**self.arguments).state_dict()
            found = {name: tuple(tensor.shape) for name, tensor in state.items()}
            differs = sorted({(entry.name, entry.shape) for entry in layout.entries} - set(found.items()))
            if differs:
                raise ValueError(f"it has no tensor {differs[0][0]} of shape {differs[0][1]}")
        except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
            raise StorageError(
                f"{what} is damaged (its networks are not those of {self.name}({dict(self.arguments)!r:.200}): "
                f"{error!s:.200}): restore it from a copy"
            ) from error

    def build_seeded(self, seed: int) -> nn.Module:
        """A fresh module whose initial weights depend on the seed alone."""
        with seeds.seeded_modules(seed, "initialisation"):
            return self.build()

    def initial_seeded(self, seed: int) -> nn.Module:
        """A module as training begins: as `build_seeded`, with pre-trained values where the architecture has them.

        Args:
            seed: Seed of what is drawn.

        Raises:
            InputError: The file of the pre-trained values is not known.
        """
        module = self.build_seeded(seed)
        if self.pretrained is not None:
            self.pretrained.put_into(module)
        return module

    def example(self, samples: int = 4) -> Tensor | None:
        """Random inputs, for tracing; None if this network's input is not known.

        Built-in networks know theirs (`input_shape`, without the batch), a user's network may have the
        same attribute or begin, as an nn.Sequential, with a linear layer.
        """
        checks.count(samples, "samples", at_least=1, at_most=2**20)
        module = self.build_seeded(0)
        shape = getattr(module, "input_shape", None)
        if shape is None and isinstance(module, nn.Sequential):
            first = next((layer for layer in module if list(layer.parameters())), None)
            shape = (first.in_features,) if isinstance(first, nn.Linear) else None
        if shape is None:
            return None
        example = torch.randn(samples, *shape, generator=seeds.generator(0, "example inputs"))
        return example.to(next((p.dtype for p in module.parameters() if p.is_floating_point()), example.dtype))

    def layout(self) -> Layout:
        """The layout of its networks."""
        return Layout.of(self.build_seeded(0))

    def to_json(self) -> dict[str, Any]:
        """Name, arguments and what was named as prunable as data; a user's factory is not part of it."""
        named: dict[str, Any] = {} if self.prunable is None else {"prunable": list(self.prunable)}
        named |= {} if self.pretrained is None else {"pretrained": self.pretrained.to_json()}
        return {"name": self.name, "arguments": dict(self.arguments), **named}

    @classmethod
    def from_json(cls, data: Any) -> "Architecture":
        """The inverse of `to_json`; a user's factory is not part of it.

        Args:
            data: The architecture as data.

        Raises:
            StorageError: A field is missing, unknown or of another type.
        """
        stored = from_json(_Stored, data, "an architecture")
        begun = None if stored.pretrained is None else Pretrained.from_json(stored.pretrained)
        return cls(stored.name, stored.arguments, prunable=stored.prunable, pretrained=begun)


def _names(value: Any, name: str) -> Sequence[str]:
    if isinstance(value, str):
        raise InputError(f'{name} is a sequence of names or globs such as ["encoder.*"], got {value!r}')
    return checks.several(value, name, checks.text)


def _numbers(value: Any) -> list[int | float]:
    """All numbers in the arguments of a network."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for one in value for number in _numbers(one)]
    return [value] if isinstance(value, int | float) else []


@dataclass(frozen=True)
class _Stored:
    """An architecture in files."""

    name: str
    arguments: dict[str, Any]
    prunable: tuple[str, ...] | None = None
    pretrained: dict[str, Any] | None = None
