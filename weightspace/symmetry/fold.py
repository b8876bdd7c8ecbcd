"""Fold the gains of RMS norms into the layers that read them: then the stream that they normalise can be rotated.

RMSNorm divides by a length, which no rotation changes; its gain, a factor for each unit, is what singles units out.
The same step is the first of SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime.copies import copied
from weightspace.runtime.outputs import difference
from weightspace.runtime.trees import Tree
from weightspace.symmetry.passes import call, exact_outputs

SAME = 1e-9  # relative change of an output in float64


def fold_gains(networks: Collection, example: Tree) -> Collection:
    """The same functions with the gains of RMS norms multiplied into the linear layers that read them.

    The networks of the result have no gains. `weightspace.symmetry.trace` then finds that the units between the norms,
    such as the residual stream of a language model, can be rotated ("orthogonal"), where nothing else singles them
    out. A norm is a module with "RMSNorm" in the name of its class and one parameter of one axis; its readers must be
    `nn.Linear` layers that get exactly its output.

    Args:
        networks: Networks with RMS norms, dense or sparse.
        example: A few inputs, as the networks take them.

    Raises:
        InputError: There is no RMS norm with a gain, something else than linear layers reads one, a layer reads two, a
            reader is tied to another tensor, or the function would change, as with gains of another form.
    """
    module = networks.module(0).eval()
    readers = _readers(module, example)
    layout = networks.layout
    shared = {name for alias, own in layout.aliases for name in (alias, own)}
    for gain, layers in readers.items():
        tied = [layer for layer in layers if layer in shared]
        if tied:
            raise InputError(
                f"the gain {gain} cannot be folded: {tied[0]}, which reads it, is tied to another tensor, which would "
                "change too. Untie it first (adapt.untie), or align without rotations"
            )
    states = _folded(layout.tensors(networks.weights), readers)
    before = networks.architecture
    architecture = Architecture.of(_without(before, tuple(readers)))
    folded = architecture.layout()
    result = Collection(
        folded,
        _packed(folded, states),
        architecture=architecture,
        masks=None if networks.dense else _packed(folded, layout.tensors(networks.masks)),
        buffers=networks.buffers,
        records=networks.records,
    )
    change = _change(networks, result, readers, example)
    if not change < SAME:
        raise InputError(
            f"folding the gains {', '.join(readers)} changed the output by {change:.1e} of its scale: these norms have "
            "gains of another form (such as 1 + weight), or something else reads them. Align without rotations"
        )
    return result


def rms_gains(module: nn.Module) -> list[str]:
    """Names of the gains of a module's RMS norms: layers with that in the name of their class and one vector.

    Args:
        module: The network.
    """
    return [
        f"{name}.{own}" if name else own
        for name, layer in module.named_modules()
        if "RMSNorm" in type(layer).__name__ and not list(layer.children())
        for own, parameter in layer.named_parameters()
        if parameter.ndim == 1 and len(list(layer.parameters())) == 1
    ]


def _folded(states: Mapping[str, Tensor], readers: Mapping[str, list[str]]) -> dict[str, Tensor]:
    """Tensors with a leading axis of networks, gains multiplied into the columns of their readers."""
    folded = dict(states)
    for gain, layers in readers.items():
        for layer in layers:
            folded[layer] = folded[layer] * folded[gain][:, None, :]
    return folded


def _change(before: Collection, after: Collection, readers: Mapping[str, list[str]], example: Tree) -> float:
    """The relative change of the first network's outputs in double precision, in which weights are folded again."""
    modules = [copied(each.module(0)).double().eval() for each in (before, after)]
    state = modules[0].state_dict()
    folded = _folded({name: tensor[None] for name, tensor in state.items()}, readers)
    modules[1].load_state_dict({name: folded[name][0] for name in modules[1].state_dict()})
    outputs = [exact_outputs(module, example) for module in modules]
    return difference(outputs[1], outputs[0])


def _readers(module: nn.Module, example: Tree) -> dict[str, list[str]]:
    """For each gain the weights of the linear layers that read its norm's output."""
    gains = rms_gains(module)
    if not gains:
        raise InputError(
            f"{type(module).__name__} has no RMS norm with a gain, and there is nothing to fold: other norms subtract "
            "a mean or add a bias, which no rotation keeps. Align it without rotations of the stream"
        )
    seen: list[tuple[Tensor, str]] = []  # outputs are kept, so that no other tensor takes their place in memory
    found: dict[str, list[str]] = {gain: [] for gain in gains}
    owners: dict[str, str] = {}

    def normed(gain: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.append((output, gain))

    def read(layer: str) -> Callable[..., None]:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for output, gain in seen:
                if inputs and _same(inputs[0], output):
                    if owners.setdefault(layer, gain) != gain:
                        raise InputError(
                            f"{layer} reads two norms ({owners[layer]}, {gain}), so that no gain can be folded: align "
                            "without rotations"
                        )
                    if layer not in found[gain]:
                        found[gain].append(layer)

        return note

    norms = {gain: module.get_submodule(gain.rpartition(".")[0]) for gain in gains}
    handles = [norm.register_forward_hook(normed(gain)) for gain, norm in norms.items()]
    handles += [
        layer.register_forward_pre_hook(read(f"{name}.weight" if name else "weight"))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with torch.no_grad():
            call(module, example)
    finally:
        for handle in handles:
            handle.remove()
    unread = [gain for gain, layers in found.items() if not layers]
    if unread:
        raise InputError(
            f"no linear layer reads the norm of {unread[0]}, so that its gain cannot be folded: align without rotations"
        )
    return found


def _same(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same values in the same memory, as a slice of everything is."""
    return tensor.data_ptr() == other.data_ptr() and tensor.shape == other.shape and tensor.stride() == other.stride()


def _without(architecture: Architecture, gains: tuple[str, ...]) -> Callable[[], nn.Module]:
    """A factory of the network in which gains are ones outside the state dict."""

    def factory() -> nn.Module:
        module = architecture.build()
        for gain in gains:
            place, _, own = gain.rpartition(".")
            layer = module.get_submodule(place)
            value = getattr(layer, own)
            delattr(layer, own)
            layer.register_buffer(own, torch.ones_like(value.detach()), persistent=False)
        return module

    return factory


def _packed(layout: Layout, states: dict[str, Tensor]) -> Tensor:
    return torch.cat([states[entry.name].flatten(1) for entry in layout.parameters], 1)
