"""Embeddings in tickets: whether they were pruned with the rest, which is easily overlooked."""

import warnings

from torch import nn

from weightspace.networks.collection import Collection

_SAME = 0.01  # densities that differ by less are those of pruning layer by layer


def warn_of_embeddings(tickets: Collection) -> Collection:
    """Say that embeddings were ranked with all other weights, and return the tickets.

    Rows of an embedding are of tokens of any frequency, and often most of a language model's weights: where they are
    pruned, much of what a ticket saves may be theirs (Yu et al. 2020, arXiv 1906.02768).

    Args:
        tickets: Networks with masks.
    """
    if tickets.dense:
        return tickets
    layout, module = tickets.layout, tickets.architecture.build_seeded(0)
    places = {f"{name}.weight": name for name, layer in module.named_modules() if isinstance(layer, nn.Embedding)}
    names = [entry.name for entry in layout.weights if entry.name in places]
    total = tickets.densities.mean().item()
    pruned: list[str] = []
    for name in names:
        kept = tickets.masks[:, layout.slices[name]].double().mean().item()
        if kept < 1 and abs(kept - total) > _SAME:
            pruned.append(name)
    if pruned:
        share = sum(entry.size for entry in layout.weights if entry.name in pruned) / layout.num_prunable
        warnings.warn(
            f"the embedding {', '.join(pruned)}, {share:.0%} of the prunable weights, is ranked with the others and "
            f"pruned: to leave it out, use pattern=Except(Unstructured(...), {', '.join(map(repr, pruned))})",
            stacklevel=3,
        )
    return tickets
