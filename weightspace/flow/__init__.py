"""Flow matching: a generator of codes. t = 0 is noise x_0, t = 1 is data x_1."""

from weightspace.flow.deep_weight_flow import DeepWeightFlow as DeepWeightFlow
from weightspace.flow.fitted_flow import FLOWS as FLOWS
from weightspace.flow.fitted_flow import FittedFlow as FittedFlow
from weightspace.flow.flow_matching import FlowMatching as FlowMatching
from weightspace.flow.knowledge import measure_knowledge as measure_knowledge
