"""Ticket finders: each takes a collection of trained networks and returns the same networks, sparse."""

from weightspace.tickets.analysis import Matching as Matching
from weightspace.tickets.analysis import collapsed_layers as collapsed_layers
from weightspace.tickets.analysis import effective_density as effective_density
from weightspace.tickets.analysis import effective_masks as effective_masks
from weightspace.tickets.analysis import mask_overlap as mask_overlap
from weightspace.tickets.analysis import matching as matching
from weightspace.tickets.analysis import neural_persistence as neural_persistence
from weightspace.tickets.at_start import AtStart as AtStart
from weightspace.tickets.continuous import ContinuousSparsification as ContinuousSparsification
from weightspace.tickets.controls import Controls as Controls
from weightspace.tickets.deconstruct import Deconstruction as Deconstruction
from weightspace.tickets.dynamic import Dynamic as Dynamic
from weightspace.tickets.early_bird import EarlyBird as EarlyBird
from weightspace.tickets.early_phase import EarlyPhase as EarlyPhase
from weightspace.tickets.early_phase import transfer as transfer
from weightspace.tickets.gradual import Gradual as Gradual
from weightspace.tickets.imp import IMP as IMP
from weightspace.tickets.scores import SNIP as SNIP
from weightspace.tickets.scores import GraSP as GraSP
from weightspace.tickets.scores import Magnitude as Magnitude
from weightspace.tickets.scores import Random as Random
from weightspace.tickets.scores import SynFlow as SynFlow
from weightspace.tickets.strong import EdgePopup as EdgePopup
from weightspace.tickets.structured import refill as refill
from weightspace.tickets.structured import regroup as regroup
