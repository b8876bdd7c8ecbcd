"""Flow matching: a generator of codes. t = 0 is noise x_0, t = 1 is data x_1."""

from weightspace.flow.fit import FittedFlow as FittedFlow
from weightspace.flow.fit import FlowMatching as FlowMatching
from weightspace.flow.published import DeepWeightFlow as DeepWeightFlow
