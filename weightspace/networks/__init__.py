"""Layouts, networks, collections and ensembles."""

from weightspace.networks.architecture import Architecture as Architecture
from weightspace.networks.collection import Collection as Collection
from weightspace.networks.ensemble import Ensemble as Ensemble
from weightspace.networks.importing import from_state_dict as from_state_dict
from weightspace.networks.importing import from_state_dicts as from_state_dicts
from weightspace.networks.layout import Entry as Entry
from weightspace.networks.layout import Layout as Layout
from weightspace.networks.merging import merge as merge
from weightspace.networks.network import Network as Network
from weightspace.networks.starts import starts as starts
from weightspace.networks.zoo import from_zoo as from_zoo
