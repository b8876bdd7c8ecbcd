"""Ticket finders: each takes a collection of trained networks and returns the same networks, sparse."""

from weightspace.tickets.gradual import Gradual as Gradual
from weightspace.tickets.imp import IMP as IMP
