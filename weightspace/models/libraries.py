"""Networks of other libraries by name: torchvision, timm, transformers."""

import ast
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from weightspace.errors import InputError
from weightspace.runtime import checks

_FORM = "torchvision:resnet18, timm:resnet18(num_classes=10), or transformers:BertForMaskedLM(hidden_size=32)"
_PRETRAINED = ("weights", "weights_backbone", "pretrained", "checkpoint_path")


def from_library(name: str) -> Callable[[], nn.Module]:
    """A factory of a network that another library knows by name, as its code initialises it.

        ws.Architecture.of(ws.models.from_library("torchvision:resnet18(num_classes=10)"))

    Of torchvision and timm the names are those of `torchvision.models.get_model` and `timm.create_model`; of
    transformers it is a class of models, and the arguments are those of its configuration. Nothing is downloaded.

    Args:
        name: LIBRARY:NAME, or LIBRARY:NAME(ARGUMENT=VALUE, ...) with plain values.

    Raises:
        InputError: It is written in another way, the library is not installed, or it has no such network.
    """
    library, _, rest = checks.text(name, "name", _FORM).partition(":")
    if library not in _LIBRARIES or not rest:
        raise InputError(f"a network of another library is written like {_FORM}, got {name!r}")
    short, arguments = _call(rest, name)
    asked = next((word for word in _PRETRAINED if word in arguments), None)
    if asked is not None:
        raise InputError(
            f"{name} asks for pre-trained weights ({asked}), and factories build untrained networks: leave it out, "
            "read the file of weights with from_state_dict (weightspace import), and begin there with starts "
            "(--as-starts)"
        )
    made = LibraryModel(library, short, arguments)
    made.require()
    return made


def is_of_library(name: str) -> bool:
    """Whether a name is that of a network of another library, as `from_library` takes it.

    Args:
        name: Text such as timm:resnet18.
    """
    return name.partition(":")[0] in _LIBRARIES and ":" in name


@dataclass(frozen=True)
class LibraryModel:
    """Builds a network of another library; collections of such networks are loaded with the same factory.

    Args:
        library: Name of the library: torchvision, timm or transformers.
        name: Name of the network there.
        arguments: Arguments of its construction.
    """

    library: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        label = f"{self.library}:{self.name}" + (f"({given})" if given else "")
        object.__setattr__(self, "__qualname__", label)  # what architectures are called after

    def require(self) -> None:
        """Check that the library is here and knows the name.

        Raises:
            InputError: It is not, or does not.
        """
        _, knows, where = _LIBRARIES[self.library]
        if not knows(_module(self.library), self.name):
            raise InputError(f"{self.library} has no network {self.name!r}: {where}")

    def __call__(self) -> nn.Module:
        return _LIBRARIES[self.library][0](_module(self.library), self.name, dict(self.arguments))


def _call(text: str, name: str) -> tuple[str, dict[str, Any]]:
    """NAME or NAME(ARGUMENT=VALUE, ...); names may have dots and dashes."""
    short, bracket, rest = text.partition("(")
    if not bracket:
        return short, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("arguments have names")
        arguments = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"the arguments of {name} cannot be read ({error}): write {_FORM}") from error
    if None in arguments:
        raise InputError(f"the arguments of {name} cannot be read (**): write {_FORM}")
    return short, {str(word): value for word, value in arguments.items()}


def _module(library: str) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers and timm are imported
    module = {"torchvision": "torchvision.models"}.get(library, library)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{library} is not installed: pip install {library}") from error


def _of_transformers(module: Any, name: str, arguments: dict[str, Any]) -> nn.Module:
    kind = getattr(module, name)
    return kind(kind.config_class(**arguments))


_LIBRARIES: Mapping[str, tuple[Callable[[Any, str, dict[str, Any]], nn.Module], Callable[[Any, str], bool], str]] = {
    "torchvision": (
        lambda module, name, arguments: module.get_model(name, weights=None, **arguments),
        lambda module, name: name in module.list_models(),
        "torchvision.models.list_models() lists them",
    ),
    "timm": (
        lambda module, name, arguments: module.create_model(name, pretrained=False, **arguments),
        lambda module, name: module.is_model(name),
        "timm.list_models() lists them",
    ),
    "transformers": (
        _of_transformers,
        lambda module, name: getattr(getattr(module, name, None), "config_class", None) is not None,
        "give a class of models with a configuration, such as BertForSequenceClassification",
    ),
}
"""How each library builds a network, whether it knows a name, and where its names are."""
