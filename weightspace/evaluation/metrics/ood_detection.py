"""Do networks notice inputs from elsewhere? AUROC and FPR95, with the foreign inputs as positives."""

import numpy as np
from jaxtyping import Float
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor


def auroc(own: Float[Tensor, " s"], foreign: Float[Tensor, " t"]) -> float:
    """Probability that a foreign input has a higher score than one's own; ties count half."""
    truth, scores = _together(own, foreign)
    return float(roc_auc_score(truth, scores))


def fpr95(own: Float[Tensor, " s"], foreign: Float[Tensor, " t"]) -> float:
    """Share of one's own inputs flagged at the highest threshold that detects 95 % of the foreign ones."""
    false, true, _ = roc_curve(*_together(own, foreign), drop_intermediate=False)
    return float(false[np.argmax(true >= 0.95)])


def _together(own: Tensor, foreign: Tensor) -> tuple[np.ndarray, np.ndarray]:
    truth = np.concatenate([np.zeros(len(own)), np.ones(len(foreign))])
    return truth, np.concatenate([own.numpy(), foreign.numpy()])
