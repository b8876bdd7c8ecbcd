"""Ticket finders: each takes a collection of trained networks and returns the same networks, sparse."""

from weightspace.masks.overlap import mask_overlap as mask_overlap
from weightspace.tickets.ablations.controls import TicketControls as TicketControls
from weightspace.tickets.ablations.deconstruct import Deconstruction as Deconstruction
from weightspace.tickets.ablations.early_phase import EarlyPhase as EarlyPhase
from weightspace.tickets.ablations.early_phase import transfer as transfer
from weightspace.tickets.analysis import MatchingResult as MatchingResult
from weightspace.tickets.analysis import matching as matching
from weightspace.tickets.analysis import neural_persistence as neural_persistence
from weightspace.tickets.at_initialization import PruneAtInit as PruneAtInit
from weightspace.tickets.continuous_sparsification import ContinuousSparsification as ContinuousSparsification
from weightspace.tickets.early_bird import EarlyBird as EarlyBird
from weightspace.tickets.edge_popup import EdgePopup as EdgePopup
from weightspace.tickets.gradual import GradualPruning as GradualPruning
from weightspace.tickets.imp import IMP as IMP
from weightspace.tickets.paths import collapsed_layers as collapsed_layers
from weightspace.tickets.paths import effective_density as effective_density
from weightspace.tickets.paths import effective_masks as effective_masks
from weightspace.tickets.refill import refill as refill
from weightspace.tickets.refill import regroup as regroup
from weightspace.tickets.rigl import DynamicSparseTraining as DynamicSparseTraining
from weightspace.tickets.scores import SNIP as SNIP
from weightspace.tickets.scores import GraSP as GraSP
from weightspace.tickets.scores import InitScore as InitScore
from weightspace.tickets.scores import MagnitudeScore as MagnitudeScore
from weightspace.tickets.scores import RandomScore as RandomScore
from weightspace.tickets.scores import SynFlow as SynFlow
