"""Trackers: where the numbers of training go, for `weightspace.track`."""

from weightspace.runtime.tracking import Tracker as Tracker
from weightspace.trackers.files import CSV as CSV
from weightspace.trackers.files import JSONLines as JSONLines
from weightspace.trackers.services import TensorBoard as TensorBoard
from weightspace.trackers.services import WandB as WandB
