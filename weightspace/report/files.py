"""Reports on disk: report.json, whose keys are those of version 0.1.

The file looks figures up by phrases such as "novel and performing at 2" or "blur 3"; the functions here translate
between these and the typed results, in both directions.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from weightspace.errors import StorageError
from weightspace.report.data import ReportData
from weightspace.storage.files import dump_json, read_manifest
from weightspace.storage.manifests import check_one
from weightspace.storage.system_errors import exists
from weightspace.storage.typed import from_json, to_json

FORMAT = "weightspace.report"
VERSION = 2
D = TypeVar("D", bound=ReportData)

# Names on disk by the names of fields; fields that are not listed keep their names.
_REPORT = {"groups": "arms", "ensembles": "posteriors", "figures": "pictures"}
_SETTINGS = {
    "equal_error_noise": "noise of equal errors",
    "baseline_networks": "networks of a baseline",
    "made_from": "made from",
    "ood_inputs": "foreign inputs",
    "memory_gb": "memory",
}
_PREDICTOR = {name: name for name in ("accuracy", "nll", "brier", "ece")} | {
    "adaptive_ece": "adaptive ece",
    "mace": "mace",
}
_PER_NETWORK = {
    "gain_over_nearest": "gain over nearest",
    "nearest_distance": "nearest distance",
    "from_few": "from few",
    "max_error_iou": "max error IoU",
    "density": "density",
    "mask_overlap_with_training": "mask overlap with training",
    "nearest_angle": "nearest angle",
}
_ENSEMBLE = _PREDICTOR | {"mutual_information": "mutual information", "disagreement": "disagreement"}
_VARIETY = {
    "dispersion": "dispersion",
    "error_iou": "error IoU among",
    "error_iou_by_chance": "error IoU by chance",
    "nearest_distance": "nearest among",
    "mask_overlap": "mask overlap",
    "mask_overlap_by_chance": "mask overlap by chance",
}
_NEAR = {"copies": "copies", "dispersion_around_training": "dispersion around the training mean"}
_HELD_OUT = {"z_u": "Z_U", "farther_than_held_out": "farther than held-out"}
_NOVEL = "novel and performing at "
_BIN = ("count", "confidence", "accuracy")
_SCORES = {"by_entropy": "entropy", "by_mutual_information": "mutual information"}
_FIGURES = ("auroc", "fpr95")
_SHIFT = ("accuracy", "nll", "ece")
_POINT, _LINES = {"score": "accuracy"}, {"scores": "accuracies"}
_METRICS = "metrics"  # of networks that are no classifiers of one label, by the names that the task gives them


def report_to_json(report: ReportData) -> dict[str, Any]:
    """A report as the data of report.json."""
    # Through JSON, so that tuples are lists in a report that was measured and in one that was loaded.
    content: dict[str, Any] = json.loads(dump_json(to_json(report), "the report"))
    one_label = report.scoring is None
    content["groups"] = [_group_to_disk(group, one_label) for group in content["groups"]]
    content["ensembles"] = [_ensemble_to_disk(ensemble, one_label) for ensemble in content["ensembles"]]
    content["settings"] = _renamed(content["settings"], _SETTINGS)
    if content["settings"]["statistics"] == "anew":  # written where there is something to say
        for name in ("statistics", "own_statistics", "augmented_statistics"):
            del content["settings"][name]
    if one_label:
        content["points"] = [_renamed(point, _POINT) for point in content["points"]]
        lines = content["figures"]["lines"]
        content["figures"]["lines"] = {name: _renamed(line, _LINES) for name, line in lines.items()}
    for name in ("scoring", "left_out", "knowledge"):  # only where there is something to say
        if not content[name]:
            del content[name]
    return {"format": FORMAT, "version": VERSION, **_renamed(content, _REPORT)}


def load_report(kind: type[D], path: Path) -> D:
    """Read a report.json.

    Args:
        kind: Class of the report: `ReportData`, or one derived from it.
        path: The JSON file.

    Raises:
        StorageError: There is no such file, or it is damaged or of another version.
    """
    if not exists(path):
        raise StorageError(f"{path} does not exist: run `weightspace evaluate` first")
    names = ("task", "test_samples", "samples", "reference", "points", "verdicts", *_REPORT.values(), "settings")
    check_one(path)
    data = read_manifest(path, FORMAT, VERSION, names)
    content = _renamed({name: data[name] for name in data if name not in ("format", "version")}, _inverse(_REPORT))
    one_label = content.get("scoring") is None
    try:
        content["groups"] = [_group_from_disk(group, one_label) for group in content["groups"]]
        content["ensembles"] = [_ensemble_from_disk(ensemble, one_label) for ensemble in content["ensembles"]]
        content["settings"] = _renamed(content["settings"], _inverse(_SETTINGS))
        if one_label:
            content["points"] = [_renamed(point, _inverse(_POINT)) for point in content["points"]]
            lines = content["figures"]["lines"]
            lines = {name: _renamed(line, _inverse(_LINES)) for name, line in lines.items()}
            content["figures"] = content["figures"] | {"lines": lines}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise StorageError(f"{path} is damaged: its entries are not those of a report ({error!r})") from error
    return from_json(kind, content, str(path))


def _group_to_disk(group: Mapping[str, Any], one_label: bool) -> dict[str, Any]:
    novelty, per_network = group["novelty"], group["per_network"]
    together = {
        **_scores_to_disk(group["ensemble"]["scores"], _ENSEMBLE, one_label),
        **_known(group["variety"] or {}, _VARIETY),
        **_known(novelty, _NEAR),
        **{f"{_NOVEL}{one['tau']}": one["share"] for one in novelty["novel_and_performing"]},
        **_known(novelty, _HELD_OUT),
    }
    return {
        "name": group["name"],
        "note": group["note"],
        "per_network": {
            **_scores_to_disk(per_network["scores"], _PREDICTOR, one_label),
            **_known(per_network, _PER_NETWORK),
        },
        "together": together,
        "layer_density": {layer["name"]: layer["density"] for layer in group["layer_density"]},
        "intervals": group["intervals"] or {},
        "reliability": [[one[name] for name in _BIN] for one in group["reliability"]],
    }


def _group_from_disk(group: Mapping[str, Any], one_label: bool) -> dict[str, Any]:
    scores, per_network = _scores_from_disk(group["per_network"], _PREDICTOR, one_label)
    joint, together = _scores_from_disk(group["together"], _ENSEMBLE, one_label)
    shares = {name: share for name, share in together.items() if name.startswith(_NOVEL)}
    unknown = set(together) - {*shares, *(_VARIETY | _NEAR | _HELD_OUT).values()}
    if unknown:
        raise KeyError(*sorted(unknown))
    novel = [{"tau": int(name.removeprefix(_NOVEL)), "share": share} for name, share in shares.items()]
    return {
        "name": group["name"],
        "note": group["note"],
        "per_network": {"scores": scores, **_renamed(per_network, _inverse(_PER_NETWORK))},
        "ensemble": {"scores": joint},
        "novelty": _known(together, _inverse(_NEAR | _HELD_OUT)) | {"novel_and_performing": novel},
        "variety": _known(together, _inverse(_VARIETY)) or None,
        "layer_density": [{"name": name, "density": density} for name, density in group["layer_density"].items()],
        "intervals": group["intervals"] or None,
        "reliability": [dict(zip(_BIN, values, strict=True)) for values in group["reliability"]],
    }


def _scores_to_disk(scores: Mapping[str, Any], names: Mapping[str, str], one_label: bool) -> dict[str, Any]:
    """Metrics of classifiers beside other figures, under the names of version 0.1; those of others by themselves."""
    return _known(scores, names) if one_label else {_METRICS: dict(scores)}


def _scores_from_disk(
    figures: Mapping[str, Any], names: Mapping[str, str], one_label: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics, and what else stands beside them."""
    if not one_label:
        return figures[_METRICS], {name: value for name, value in figures.items() if name != _METRICS}
    return _exactly({old: figures[old] for old in names.values()}, names), {
        name: value for name, value in figures.items() if name not in names.values()
    }


def _ensemble_to_disk(ensemble: Mapping[str, Any], one_label: bool) -> dict[str, Any]:
    metrics, scaled = ensemble["metrics"]["scores"], ensemble["scaled"]
    data = {
        "name": ensemble["name"],
        "note": ensemble["note"],
        "networks": ensemble["networks"],
        "metrics": _known(metrics, _ENSEMBLE) if one_label else metrics,
        "temperature": ensemble["temperature"],
        "scaled": None if scaled is None else _known(scaled["scores"], _PREDICTOR),
        "detection": {
            f"{figure} by {score}": ensemble[name][figure]
            for name, score in _SCORES.items()
            if ensemble[name] is not None
            for figure in _FIGURES
        },
        "shifted": {f"{shift['kind']} {shift['severity']}": shift["scores"] for shift in ensemble["shifts"]},
    }
    return {name: value for name, value in data.items() if value is not None}


def _ensemble_from_disk(ensemble: Mapping[str, Any], one_label: bool) -> dict[str, Any]:
    detection = ensemble["detection"]
    found = {
        name: {figure: detection[f"{figure} by {score}"] for figure in _FIGURES}
        if f"auroc by {score}" in detection
        else None
        for name, score in _SCORES.items()
    }
    shifts: list[dict[str, Any]] = []
    for shift, figures in ensemble["shifted"].items():
        kind, _, severity = shift.rpartition(" ")
        scores = _exactly(figures, {name: name for name in _SHIFT}) if one_label else figures
        shifts.append({"kind": kind, "severity": int(severity), "scores": scores})
    metrics, scaled = ensemble["metrics"], ensemble["scaled"] if one_label else ensemble.get("scaled")
    kept = {name: ensemble[name] for name in ensemble if name not in ("metrics", "scaled", "detection", "shifted")}
    return (
        {"temperature": None}
        | kept
        | found
        | {
            "metrics": {"scores": _exactly(metrics, _ENSEMBLE) if one_label else metrics},
            "scaled": None if scaled is None else {"scores": _exactly(scaled, _PREDICTOR)},
            "shifts": shifts,
        }
    )


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same values under other names; names that are not listed stay."""
    return {names.get(name, name): value for name, value in values.items()}


def _exactly(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The values under their other names, which must be the listed ones."""
    if set(values) != set(names.values()):
        raise KeyError(*sorted(set(values) ^ set(names.values())))
    return {name: values[old] for name, old in names.items()}


def _known(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The listed values under their other names and in that order, without those that are absent."""
    return {new: values[name] for name, new in names.items() if values.get(name) is not None}


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {new: name for name, new in names.items()}
