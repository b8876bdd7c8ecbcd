"""The command line's verb for Bayesian tickets."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from weightspace.cli.inputs import Common, Shared, find_task
from weightspace.errors import InputError
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step

Name = Literal[
    "magnitude", "signal-to-noise", "root-second-moment", "lower-bound", "upper-bound", "band", "kl-gain", "inclusion"
]


def bayes(
    *,
    out: Path,
    task: str = "digits",
    hidden: tuple[int, ...] | None = None,
    n: int = 3,
    seed: int = 0,
    scores: tuple[Name, ...] = ("magnitude", "signal-to-noise", "root-second-moment"),
    density: float = 0.02,
    rate: float = 0.5,
    scope: Literal["global", "layer"] = "global",
    rewind: str = "0it",
    sigma: Literal["initial", "learned", "rescaled"] = "initial",
    temperature: float = 0.1,
    draws: int = 20,
    length: str = "30ep",
    batch_size: int = 64,
    lr: float = 3e-3,
    common: Shared = Common(),
) -> None:
    """Study Bayesian tickets: several scores over all densities, with deterministic tickets and controls.

    Args:
        out: folder for all levels, rows.csv and report.html.
        task: digits, iris, wine, breast_cancer, mnist, fashion_mnist, cifar10, or MODULE:FUNCTION that returns a Task.
        hidden: sizes of the hidden layers of the task's MLP; by default the task's.
        n: networks; every method gets the same seeds.
        seed: of everything.
        scores: what weights are ranked by; the first is the one that others are compared with.
        density: of the last level.
        rate: fraction of the remaining weights removed at each level.
        scope: rank weights over the whole network, or inside each layer.
        rewind: how far into the first training the survivors are put back.
        sigma: standard deviations after a reset: initial, learned, or rescaled to the inputs that are left.
        temperature: weight of the KL to the prior.
        draws: networks drawn from each posterior to predict.
        length: of the training of each level, such as 30ep.
        batch_size: samples a step.
        lr: of Adam, with cosine decay.
    """
    from weightspace import bayes as own  # here, as it imports Pyro, which takes seconds

    common.only_cpu("bayes")
    built = find_task(task, common, **({"hidden": hidden} if hidden is not None else {}))
    recipe = Recipe(Step.of(length), batch_size=batch_size, optimizer=Adam(lr=lr), schedule="cosine")
    chosen = dict(zip(Name.__args__, own.STUDY_SCORES.items(), strict=True))
    if len(set(scores)) < len(scores):
        raise InputError(f"name each score once, got {', '.join(scores)}")
    finder = own.BayesianIMP(
        density=density, rate=rate, scope=scope, sigma=sigma, rewind=Step.of(rewind),
        variational=own.Variational(temperature=temperature),
    )  # fmt: skip
    study = own.Study(
        replace(built, recipe=recipe), finder, dict(chosen[name] for name in scores), networks=n, draws=draws, seed=seed
    )
    result = study.run(out)
    own.write_report(result, out)
    print(own.pages.over_densities(result, "accuracy").text())
    print(f"written to {out / 'report.html'}")
