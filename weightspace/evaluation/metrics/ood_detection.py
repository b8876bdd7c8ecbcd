"""Do networks notice out-of-distribution (OOD) inputs? AUROC and FPR95, with OOD inputs as the positives."""

import numpy as np
from jaxtyping import Float
from torch import Tensor


def auroc(test: Float[Tensor, " s"], ood: Float[Tensor, " t"]) -> float:
    """Probability that an OOD input has a higher score than a test input; ties count half.

    Args:
        test: Scores of test inputs.
        ood: Scores of OOD inputs.
    """
    from sklearn.metrics import roc_auc_score

    truth, scores = _together(test, ood)
    return float(roc_auc_score(truth, scores))


def fpr95(test: Float[Tensor, " s"], ood: Float[Tensor, " t"]) -> float:
    """Share of test inputs that are flagged at the highest threshold that detects 95 % of the OOD inputs.

    Args:
        test: Scores of test inputs.
        ood: Scores of OOD inputs.
    """
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(*_together(test, ood), drop_intermediate=False)
    return float(false[np.argmax(true >= 0.95)])


def _together(test: Tensor, ood: Tensor) -> tuple[np.ndarray, np.ndarray]:
    truth = np.concatenate([np.zeros(len(test)), np.ones(len(ood))])
    return truth, np.concatenate([test.numpy(), ood.numpy()])
