"""Values that were taken without a word and gave wrong results are refused, or ranked as what they are."""

import pytest
import torch

import weightspace as ws
from weightspace.masks.patterns import _usable
from weightspace.networks.record import Record


def test_nan_is_no_best_network(dense: ws.Collection) -> None:
    records = [
        {**r, "metrics": {"validation_accuracy": float("nan") if i == 1 else 0.5}} for i, r in enumerate(dense.records)
    ]
    with pytest.raises(ws.InputError, match="validation_accuracy of a network is NaN"):
        dense.replace(records=records).best(1)
    assert len(dense.best(1)) == 1


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_scores_of_any_dtype_keep_the_exact_count_inside(dtype: torch.dtype, dense: ws.Collection) -> None:
    layout = dense.layout
    within = ws.Unstructured(0.5).mask(dense.weights, layout)
    scores = _usable((dense.weights.abs() > 0.1).to(dtype), layout, within)  # the types of tests allow no others
    assert (scores[~within] == -torch.inf).all()
    kept = ws.Unstructured(0.2).mask(scores, layout)
    assert (kept[:, layout.prunable].sum(1) == round(0.2 * layout.num_prunable)).all()
    assert not (kept & ~within).any()


def test_values_written_after_making_a_collection_are_checked_on_saving(dense: ws.Collection, tmp_path) -> None:
    weights = dense.weights.clone()
    networks = ws.Collection(dense.layout, weights, architecture=dense.architecture)
    networks.save(tmp_path / "fine")
    weights[2, 5] = torch.nan
    with pytest.raises(ws.InputError, match="weights of network 2 holds NaN"):
        networks.save(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


def test_names_and_keys_are_unique_texts(dense: ws.Collection) -> None:
    entry = dense.layout.entries[0]
    with pytest.raises(ws.InputError, match="two tensors called"):
        ws.Layout((entry, entry))
    with pytest.raises(ws.InputError, match="keys of a record are texts"):
        Record({3: "three"})  # pyright: ignore[reportArgumentType]
    assert Record({"3": "three"})["3"] == "three"


def test_compression_refuses_nan(dense: ws.Collection) -> None:
    fitted, vectors = ws.PCA(2).fit(dense), dense.weights.clone()
    vectors[1, 4] = torch.inf
    for call in (fitted.transform, fitted.updated, ws.PCA(2).fit):
        call(dense.weights)
        with pytest.raises(ws.InputError, match="vector 1 is NaN or infinite at 4"):
            call(vectors)
