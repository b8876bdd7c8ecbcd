"""Results of a study: one row for each method, density and network, and the overlaps of masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from weightspace.bayes.scores import PosteriorScore, posterior_scores
from weightspace.errors import StorageError
from weightspace.report.metrics import ACCURACY, ReportedMetric
from weightspace.storage.csv_text import quoted, table_text, text_of
from weightspace.storage.files import dump_json, make_folder, read_manifest, write_text
from weightspace.storage.manifests import add_to_manifest, check_one
from weightspace.storage.system_errors import exists
from weightspace.storage.typed import from_json, to_json

STUDY, ROWS, OVERLAPS = "study.json", "rows.csv", "overlaps.csv"
_FORMAT = "weightspace-study"

MetricName = Literal[
    "accuracy",
    "nll",
    "brier",
    "ece",
    "adaptive_ece",
    "mace",
    "temperature",
    "scaled_nll",
    "scaled_brier",
    "scaled_ece",
    "scaled_mace",
    "entropy_auroc",
    "entropy_fpr95",
    "mutual_information_auroc",
    "mutual_information_fpr95",
    "seconds",
]

# Columns of rows.csv, in the spelling of version 0.1.
_COLUMNS: Mapping[str, str] = {
    "method": "method",
    "network": "network",
    "density": "density",
    "layer_densities": "layers",
    "accuracy": "accuracy",
    "nll": "nll",
    "brier": "brier",
    "ece": "ece",
    "adaptive_ece": "adaptive ece",
    "mace": "mace",
    "temperature": "temperature",
    "scaled_nll": "nll, scaled",
    "scaled_brier": "brier, scaled",
    "scaled_ece": "ece, scaled",
    "scaled_mace": "mace, scaled",
    "entropy_auroc": "auroc by entropy",
    "entropy_fpr95": "fpr95 by entropy",
    "mutual_information_auroc": "auroc by mutual information",
    "mutual_information_fpr95": "fpr95 by mutual information",
    "seconds": "seconds",
}


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """Metrics of one predictive distribution on the test split.

    Args:
        method: Name of the method, as tables show it.
        network: Position of the network; 0 for an ensemble of all networks.
        density: Fraction of the prunable weights that is kept.
        accuracy: Accuracy of the mean prediction.
        nll: Negative log-likelihood of the labels.
        brier: Brier score, between 0 and 2.
        ece: Expected calibration error, 15 bins of equal width.
        adaptive_ece: The same, with bins of equally many samples.
        mace: Mean absolute calibration error, bins unweighted (arXiv 2602.18825).
        temperature: Temperature that was fitted on the validation split.
        scaled_nll: `nll` at that temperature.
        scaled_brier: `brier` at that temperature.
        scaled_ece: `ece` at that temperature.
        scaled_mace: `mace` at that temperature.
        entropy_auroc: AUROC of OOD inputs against test inputs, by the entropy of the prediction.
        entropy_fpr95: Share of test inputs flagged where 95 % of the OOD inputs are, by entropy.
        mutual_information_auroc: AUROC by mutual information; None for a single deterministic network.
        mutual_information_fpr95: FPR95 by mutual information; None for a single deterministic network.
        layer_densities: Density of each weight tensor; empty where there are no networks to look at.
        ensemble: The row is about all networks together.
        seconds: Training time of this level, all networks together; None where nothing was trained for the row.
    """

    method: str
    network: int
    density: float
    accuracy: float
    nll: float
    brier: float
    ece: float
    adaptive_ece: float
    mace: float
    temperature: float
    scaled_nll: float
    scaled_brier: float
    scaled_ece: float
    scaled_mace: float
    entropy_auroc: float
    entropy_fpr95: float
    mutual_information_auroc: float | None = None
    mutual_information_fpr95: float | None = None
    layer_densities: Mapping[str, float] = field(default_factory=dict)
    ensemble: bool = False
    seconds: float | None = None

    def metric(self, name: str) -> float | None:
        """The value of a metric; None where it is not defined."""
        return getattr(self, name)

    def cells(self) -> dict[str, object]:
        """The row as cells of rows.csv by column: numbers, text, and "" for what is not defined."""
        values = {name: getattr(self, name) for name in _COLUMNS}
        values["layer_densities"] = "; ".join(f"{layer} {value:.4f}" for layer, value in self.layer_densities.items())
        return {_COLUMNS[name]: "" if value is None else value for name, value in values.items()}

    @classmethod
    def from_cells(cls, cells: Mapping[str, str]) -> "StudyRow":
        """Read a row of a CSV file with the columns of `cells`.

        Densities of layers are not read, and no row counts as one of an ensemble.

        Raises:
            StorageError: A column is missing, or a cell is not a number.
        """
        kinds = {one.name: one.type for one in fields(cls)}
        values: dict[str, Any] = {}
        try:
            for name, column in _COLUMNS.items():
                if name == "method":
                    values[name] = text_of(cells[column])
                elif name == "network":
                    values[name] = int(float(cells[column]))
                elif name != "layer_densities" and (cells.get(column) or kinds[name] is float):
                    values[name] = float(cells[column])
        except (KeyError, ValueError) as error:
            raise StorageError(f"a row of a study is damaged ({error}): restore the CSV file from a copy") from error
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """Metrics by name of one predictive distribution on the test split, where `StudyRow` does not apply.

    Args:
        method: Name of the method, as tables show it.
        network: Position of the network; 0 for an ensemble of all networks.
        density: Fraction of the prunable weights that is kept.
        scores: Metrics by name: those of the task and "loss" of the mean prediction, and for posteriors of regressions
            "nll" (negative log-likelihood of a target under the predictive distribution, noise included) and "coverage"
            (share of targets in its intervals of 95 %).
        layer_densities: Density of each weight tensor; empty where there are no networks to look at.
        ensemble: The row is about all networks together.
        seconds: Training time of this level, all networks together; None where nothing was trained for the row.
    """

    method: str
    network: int
    density: float
    scores: Mapping[str, float]
    layer_densities: Mapping[str, float] = field(default_factory=dict)
    ensemble: bool = False
    seconds: float | None = None

    def metric(self, name: str) -> float | None:
        """The value of a metric; None where it is not defined."""
        return self.seconds if name == "seconds" else self.scores.get(name)

    def cells(self, names: Sequence[str] | None = None) -> dict[str, object]:
        """The row as cells of rows.csv by column: numbers, text, and "" for what is not defined.

        Args:
            names: Names of the metrics that have a column; None for those of this row.
        """
        names = list(self.scores) if names is None else names
        layers = "; ".join(f"{layer} {value:.4f}" for layer, value in self.layer_densities.items())
        scores = [self.scores.get(name, "") for name in names]
        start = [self.method, self.network, self.density, layers]
        values = [*start, *scores, "" if self.seconds is None else self.seconds]
        return dict(zip(_score_columns(names), values, strict=True))


def _score_columns(names: Sequence[str]) -> list[str]:
    """Columns of rows.csv where rows have their metrics by name."""
    return ["method", "network", "density", "layers", *names, "seconds"]


Row = StudyRow | ScoreRow


@dataclass(frozen=True)
class MethodOverlap:
    """Mask overlap of two methods at their lowest densities.

    Args:
        first: Name of a method.
        second: Name of another method, or of the same one.
        overlap: Weights that both masks keep over the weights of the first, as the mean over networks; of a method with
            itself the mean over pairs of networks. None where there are no pairs.
    """

    first: str
    second: str
    overlap: float | None


@dataclass(frozen=True)
class StudyResult:
    """Everything that a study measured.

    Args:
        task: Name of the task.
        test_samples: Size of the test split.
        rows: Rows, one for each method, density and network.
        overlaps: Overlaps of the sparsest masks.
        scores: Scores that were compared, by the name of their method.
        metrics: Metrics that the rows have by name, the main one first, where these are `ScoreRow`s; None for
            classifiers of one label, whose rows are `StudyRow`s.
    """

    task: str
    test_samples: int
    rows: Sequence[Row]
    overlaps: Sequence[MethodOverlap] = ()
    scores: Mapping[str, PosteriorScore] = field(default_factory=dict)
    metrics: Sequence[ReportedMetric] | None = None

    @property
    def main(self) -> ReportedMetric:
        """The metric that methods are compared by."""
        return ACCURACY if self.metrics is None else self.metrics[0]

    def overlap(self, first: str, second: str) -> float | None:
        """Mask overlap of two methods, by their names; None where it is not defined."""
        return next(one.overlap for one in self.overlaps if (one.first, one.second) == (first, second))

    def save(self, folder: str | Path) -> None:
        """Write study.json, which `load` reads, and the tables rows.csv and overlaps.csv.

        Raises:
            InputError: A score is not registered.
        """
        folder = Path(folder)
        make_folder(folder)
        parts = {
            "format": _FORMAT,
            "version": 1,
            "task": self.task,
            "test_samples": self.test_samples,
            "scores": {name: posterior_scores.to_json(score) for name, score in self.scores.items()},
            "overlaps": to_json(list(self.overlaps)),
            "rows": to_json(list(self.rows)),
        }
        if self.metrics is not None:
            parts["metrics"] = to_json(list(self.metrics))
        write_text(folder / STUDY, dump_json(parts, "the results of the study", indent=1))
        names = [metric.name for metric in self.metrics or ()]
        columns = _COLUMNS.values() if self.metrics is None else _score_columns(names)
        rows = [row.cells() if isinstance(row, StudyRow) else row.cells(names) for row in self.rows]
        write_text(folder / ROWS, table_text(list(columns), rows, "{:.6g}"))
        lines = [
            f"{quoted(one.first)},{quoted(one.second)},{'nan' if one.overlap is None else f'{one.overlap:.4f}'}"
            for one in self.overlaps
        ]
        write_text(folder / OVERLAPS, "\n".join(["first,second,overlap", *lines]) + "\n")
        add_to_manifest(folder, [STUDY, ROWS, OVERLAPS])

    @classmethod
    def load(cls, folder: str | Path) -> "StudyResult":
        """Read what `save` wrote.

        Raises:
            StorageError: The file is missing or damaged, or a score is not registered.
        """
        path = Path(folder) / STUDY
        if not exists(path):
            raise StorageError(f"{path} is missing: run the study into this folder, or give the folder of one")
        check_one(path)
        parts = read_manifest(path, _FORMAT, 1, [one.name for one in fields(_StudyFile)])
        what = str(path)
        kind = _ScoreFile if "metrics" in parts else _StudyFile
        file = from_json(kind, {one.name: parts[one.name] for one in fields(kind)}, what)
        return cls(
            task=file.task,
            test_samples=file.test_samples,
            rows=file.rows,
            overlaps=file.overlaps,
            scores={name: posterior_scores.from_json(data, what) for name, data in file.scores.items()},
            metrics=file.metrics if isinstance(file, _ScoreFile) else None,
        )


@dataclass(frozen=True)
class _StudyFile:
    """What study.json holds, beside its format and version."""

    task: str
    test_samples: int
    scores: dict[str, dict[str, Any]]
    overlaps: list[MethodOverlap]
    rows: list[StudyRow]


@dataclass(frozen=True)
class _ScoreFile:
    """The same where rows have their metrics by name."""

    task: str
    test_samples: int
    scores: dict[str, dict[str, Any]]
    overlaps: list[MethodOverlap]
    rows: list[ScoreRow]
    metrics: list[ReportedMetric]
