"""A classifier of scikit-learn: an ensemble of sparse networks, trained and pruned in `fit`."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.networks.ensemble import Ensemble
from weightspace.networks.outputs import Classes
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime import checks
from weightspace.tasks.data import Split
from weightspace.tasks.task import Task
from weightspace.tickets.finder import Finder
from weightspace.tickets.gradual import GradualPruning
from weightspace.training.collect import collect

_PRUNINGS = 20  # in the course of the search for tickets
_FEWEST = 50  # samples of which some are kept to choose with


class TicketEnsemble(ClassifierMixin, BaseEstimator):
    """An ensemble of sparse networks as a classifier of scikit-learn.

    `fit` standardises the inputs, trains dense networks on them side by side, finds a ticket in each, and predicts by
    the mean of the tickets' probabilities. It goes where any classifier goes: pipelines, cross-validation, searches.

    Args:
        networks: Number of networks.
        hidden: Sizes of the hidden layers.
        density: Fraction of the weights that the tickets keep.
        finder: Finder of the tickets, in place of gradual pruning to `density`.
        epochs: Passes over the data in training, and as many in gradual pruning.
        batch_size: Samples in each step.
        lr: Learning rate of Adam.
        validation_fraction: Fraction of the samples on which networks are measured, but not trained.
        device: Device to compute on: "cpu", "cuda", or "auto" for the best there is.
        random_state: Seed of the networks, their data orders and the split.
    """

    classes_: NDArray[Any]
    n_features_in_: int
    tickets_: Collection
    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    input_shape_: tuple[int, ...]

    def __init__(
        self,
        networks: int = 10,
        *,
        hidden: tuple[int, ...] = (64,),
        density: float = 0.2,
        finder: Finder | None = None,
        epochs: int = 50,
        batch_size: int = 32,
        lr: float = 0.01,
        validation_fraction: float = 0.1,
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.networks = networks
        self.hidden = hidden
        self.density = density
        self.finder = finder
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state

    @classmethod
    def of(cls, networks: Collection, example: torch.Tensor, classes: Sequence[Any] | None = None) -> "TicketEnsemble":
        """A fitted classifier of networks that you have: samples of a generator, tickets, or any others.

        It takes rows of features as scikit-learn does, (samples, features), and brings them into the shape of the
        networks' inputs. `fit`, which cross-validation calls as well, trains networks of its own.

        Args:
            networks: The networks, whose outputs are logits of classes.
            example: A batch of their inputs, such as `task.train.head(1).x`, which says the shape.
            classes: Name of each class, in the order of the outputs; None is their numbers.

        Raises:
            InputError: The outputs are no logits of classes, one for each sample, or there are more or fewer names.
        """
        checks.instance(networks, "networks", Collection, "a Collection, such as generator.sample(100, density=0.1)")
        checks.instance(example, "example", torch.Tensor, "a batch of inputs, such as task.train.head(1).x")
        found = networks.ensemble()
        with torch.no_grad():
            outputs = found.logits(example) if isinstance(found.outputs, Classes) else example
        if not isinstance(found.outputs, Classes) or outputs.ndim != 3:
            raise InputError(
                "a classifier of scikit-learn needs logits of classes, one class for each sample; of other outputs use "
                "networks.ensemble().predict(x)"
            )
        names = np.arange(outputs.shape[-1]) if classes is None else np.asarray(classes)
        if names.shape != (outputs.shape[-1],):
            raise InputError(f"the networks have {outputs.shape[-1]} classes, got {len(names)} names")
        model = cls(len(networks))
        model.tickets_, model.classes_, model.input_shape_ = networks, names, tuple(example.shape[1:])
        model.n_features_in_ = int(np.prod(example.shape[1:]))
        model.mean_, model.scale_ = np.zeros(model.n_features_in_), np.ones(model.n_features_in_)
        return model

    def fit(self, X: Any, y: Any) -> "TicketEnsemble":
        """Train the networks and find their tickets.

        Args:
            X: Inputs, (samples, features).
            y: Classes, (samples,), of any kind.

        Raises:
            ValueError: The data are not those of a classifier, or a setting is out of range (`InputError` is one).
        """
        checked: Any = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        inputs, labels = checked
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs two classes, got one class: {self.classes_[0]!r}")
        self.input_shape_ = inputs.shape[1:]
        self.mean_, spread = inputs.mean(0), inputs.std(0)
        self.scale_ = np.where(spread > 0, spread, 1.0)
        random = check_random_state(self.random_state)
        seed = int(self.random_state) if isinstance(self.random_state, Integral) else int(random.randint(2**31 - 1))
        task = self._task(self._standard(inputs), torch.from_numpy(numbers.reshape(-1)).long(), seed)
        dense = collect(task, self.networks, seed=seed, device=self.device)
        self.tickets_ = self._finder(len(task.train)).find(dense, task, device=self.device)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The mean of the tickets' probabilities, (samples, classes), in the order of `classes_`.

        Args:
            X: Inputs, (samples, features).
        """
        check_is_fitted(self)
        inputs: Any = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            return self._ensemble().predict_proba(self._standard(inputs).double()).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each sample.

        Args:
            X: Inputs, (samples, features).
        """
        found = self.predict_proba(X)
        return self.classes_[found.argmax(1)]

    def _task(self, x: torch.Tensor, y: torch.Tensor, seed: int) -> Task:
        """The task of the data; of few samples all are for both training and measuring."""
        held = round(self.validation_fraction * len(x)) if len(x) >= _FEWEST else 0
        order = torch.from_numpy(np.random.RandomState(seed % 2**32).permutation(len(x)))
        unseen, seen = order[:held], order[held:]
        train = Split(x[seen], y[seen])
        measured = Split(x[unseen], y[unseen]) if held else train
        sizes = [x.shape[1], *self.hidden, len(self.classes_)]
        recipe = Recipe(Step(epochs=self.epochs), self.batch_size, Adam(self.lr))
        return Task("sklearn", Architecture("MLP", {"sizes": sizes}), train, measured, measured, recipe)

    def _finder(self, samples: int) -> Finder:
        if self.finder is not None:
            return self.finder
        steps = self.epochs * -(-samples // self.batch_size)
        return GradualPruning(self.density, length=Step(epochs=self.epochs), every=max(1, steps // _PRUNINGS))

    def _standard(self, inputs: NDArray[np.float64]) -> torch.Tensor:
        standard = torch.from_numpy((inputs - self.mean_) / self.scale_).float()
        return standard.reshape(len(inputs), *self.input_shape_)

    def _ensemble(self) -> Ensemble:
        """The tickets in double precision, so that predictions do not depend on what else is predicted."""
        found = self.tickets_.ensemble()
        buffers = {name: b.double() if b.is_floating_point() else b for name, b in found.buffers.items()}
        return Ensemble(found.module.double(), found.layout, found.weights.double(), buffers, found.outputs)
