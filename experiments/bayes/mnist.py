"""Which score finds the best Bayesian tickets of LeNet-300-100 on MNIST, at what cost, and how good are the controls?

    python -m experiments.bayes.mnist --data-root data       (hours on one core; every level is kept)

Twenty levels of 20 % each, down to 1.15 % of the weights (arXiv 2602.18825): train a mean-field posterior (KL weight
0.1, Adam 1e-3 with cosine decay, batches of 128), score, prune, reset. The score |mu| with all seeds; |mu| / sigma
and sqrt(mu^2 + sigma^2) beside it; at two levels the whole family |mu| - lambda sigma, pruned from the same
posteriors. Controls: deterministic tickets by the same levels, raw and with a temperature; transplants of them; the
masks re-initialised, shuffled inside the layers and over the whole network; ensembles of deterministic tickets; MC
dropout. The test split is read once, by the final measurements; temperatures come from the validation split.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import tables
from weightspace import bayes
from weightspace.bayes.study.controls import StudyControls
from weightspace.bayes.study.evaluation import StudyEvaluation
from weightspace.bayes.study.results import Row
from weightspace.evaluation.dropout import MCDropout

DENSITY = 0.8**20
SWEEP = {
    "lambda -1": -1.0,
    "lambda 0.25": 0.25,
    "lambda 0.5": 0.5,
    "lambda 0.75": 0.75,
    "lambda 1.5": 1.5,
    "lambda 2": 2.0,
}

FOLDERS = {"globally shuffled": "scattered"}  # the folder of a control that runs of version 0.1 have


def main(
    data_root: Path | None = None,
    networks: int = 3,
    epochs: int = 20,
    draws: int = 20,
    out: Path = Path("runs/bayes_tickets_mnist"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each method, density and seed to bayes/mnist.csv.

    Args:
        data_root: Folder with MNIST/raw; None looks where the library looks.
        networks: Number of networks of the main score and of all controls; the other scores use the first.
        epochs: Epochs of each level.
        draws: Number of networks drawn from each posterior to predict.
        out: Folder where all levels are kept; the same command continues there.
        results: Folder of the result tables.
    """
    recipe = ws.Recipe(ws.Step(epochs=epochs), batch_size=128, optimizer=ws.Adam(lr=1e-3), schedule="cosine")
    task = replace(ws.tasks.mnist(data_root=data_root), recipe=recipe)
    dense = ws.collect(task, networks, folder=out / "dense")
    evaluation = StudyEvaluation(task, draws)
    rows: list[Row] = []

    def add(new: list[Row], folder: Path | None = None) -> None:
        rows.extend(replace(row, seconds=seconds(folder)) for row in new)
        tables.write(results / "bayes/mnist.csv", [row.cells() for row in rows])
        last = rows[-1]
        print(last.method, f"{last.density:.4f}", last.metric("accuracy"), last.metric("nll"), last.seconds, flush=True)

    main_score = bayes.BayesianIMP(density=DENSITY, score=bayes.MeanMagnitude())
    levels = main_score.find_levels(dense, task, folder=out / "magnitude")
    for level, posteriors in enumerate(levels):
        add(evaluation.rows("|mu|", posteriors), out / f"magnitude/level-{level:02}")

    plain = ws.tickets.IMP(density=DENSITY).find_levels(dense, task, folder=out / "deterministic")
    for level, tickets in enumerate(plain):
        where = out / (f"deterministic/level-{level:02}" if level else "dense")
        add(evaluation.rows("deterministic", tickets), where)
        add([evaluation.ensemble_row(f"ensemble of {networks} deterministic", tickets)])

    for level in (10, 15, 20):
        here = out / f"transplant/level-{level:02}"
        add(evaluation.rows("transplant", bayes.Variational().fit(plain[level], task, folder=here)), here)
    controls = {
        "re-initialised": StudyControls().reinitialised,
        "shuffled": StudyControls().shuffled,
        "globally shuffled": StudyControls().globally_shuffled,
    }
    begun = main_score.start(dense, task)
    for level in (10, 20):
        for name, make in controls.items():
            here = out / f"{FOLDERS.get(name, name)}/level-{level:02}"
            add(evaluation.rows(name, bayes.Variational().fit(make(levels[level], begun), task, folder=here)), here)
    dropout = MCDropout().fit(task, seed=0)
    add([evaluation.predictions_row("MC dropout", lambda x: list(dropout.passes(x, draws)))])

    one = dense[:1]
    others = {"|mu| / sigma": bayes.SignalToNoise(), "sqrt(mu^2 + sigma^2)": bayes.RootSecondMoment()}
    for name, score in others.items():
        here = out / type(score).__name__
        for level, posteriors in enumerate(replace(main_score, score=score).find_levels(one, task, folder=here)):
            add(evaluation.rows(name, posteriors), here / f"level-{level:02}")
    for name, level, start, variational in swept(main_score, levels):
        here = out / f"sweep-{name}/level-{level:02}"
        add(evaluation.rows(name, variational.fit(start, task, folder=here)), here)


def swept(
    main_score: bayes.BayesianIMP, levels: Sequence[ws.Collection]
) -> Iterator[tuple[str, int, ws.Collection, bayes.Variational]]:
    """Where training starts for each score of the family |mu| - lambda sigma, pruned from the same posteriors."""
    untrained = levels[0][:1].replace(weights=levels[0].extras["rewind"][:1], extras={})
    for level in (10, 20):
        for name, strength in SWEEP.items():
            finder = replace(main_score, score=bayes.Bound(strength=strength))
            start = finder.pruned(levels[level - 1][:1], untrained, finder.levels()[level - 1])
            yield name, level, start, finder.variational


def seconds(folder: Path | None) -> float | None:
    """What a run took, if it was not interrupted; None where there is none."""
    if folder is None or not (folder / "complete.json").exists():
        return None
    return json.loads((folder / "complete.json").read_text())["time"] - (folder / "config.yaml").stat().st_mtime


if __name__ == "__main__":
    tyro.cli(main)
