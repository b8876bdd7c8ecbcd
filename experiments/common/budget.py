"""How long to train networks so that a comparison with the refinement is fair."""

import weightspace as ws


def gradients(refine: ws.TaskRefinement) -> int:
    """Gradients of single networks on single images that a refinement takes."""
    return refine.steps * refine.networks * refine.batch_size


def length_for(gradients_each: float, task: ws.Task) -> ws.Step:
    """How long one network trains for so many gradients on single images."""
    return ws.Step(iterations=max(1, round(gradients_each / task.recipe.batch_size)))
