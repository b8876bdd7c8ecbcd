"""Ticket finders: each takes a collection of trained networks and returns the same networks, sparse."""

from weightspace.tickets.at_start import AtStart as AtStart
from weightspace.tickets.continuous import ContinuousSparsification as ContinuousSparsification
from weightspace.tickets.dynamic import Dynamic as Dynamic
from weightspace.tickets.gradual import Gradual as Gradual
from weightspace.tickets.imp import IMP as IMP
from weightspace.tickets.strong import EdgePopup as EdgePopup
