"""Estimators of scikit-learn around ensembles of tickets; scikit-learn is imported when one is asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightspace.sklearn.ticket_ensemble import TicketEnsemble as TicketEnsemble

__all__ = ["TicketEnsemble"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from weightspace.sklearn import ticket_ensemble

    return getattr(ticket_ensemble, name)


def __dir__() -> list[str]:
    return sorted(__all__)
