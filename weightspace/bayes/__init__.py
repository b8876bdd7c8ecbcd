"""Bayesian networks and their lottery tickets, in Pyro."""

from weightspace.bayes.draws import draw as draw
from weightspace.bayes.draws import means as means
from weightspace.bayes.elbo import MeanFieldELBO as MeanFieldELBO
from weightspace.bayes.gates import GatedNetwork as GatedNetwork
from weightspace.bayes.gates import GateSearch as GateSearch
from weightspace.bayes.gates import draw_gates as draw_gates
from weightspace.bayes.network import BayesianNetwork as BayesianNetwork
from weightspace.bayes.network import bayesian_positions as bayesian_positions
from weightspace.bayes.network import initial_std as initial_std
from weightspace.bayes.priors import Centred as Centred
from weightspace.bayes.priors import Horseshoe as Horseshoe
from weightspace.bayes.priors import Normal as Normal
from weightspace.bayes.priors import ScaleMixture as ScaleMixture
from weightspace.bayes.reference import Nuts as Nuts
from weightspace.bayes.reference import WithGuide as WithGuide
from weightspace.bayes.reference import guide_draws as guide_draws
from weightspace.bayes.reference import nuts_draws as nuts_draws
from weightspace.bayes.scores import Band as Band
from weightspace.bayes.scores import Bound as Bound
from weightspace.bayes.scores import Inclusion as Inclusion
from weightspace.bayes.scores import KLGain as KLGain
from weightspace.bayes.scores import Magnitude as Magnitude
from weightspace.bayes.scores import RootSecondMoment as RootSecondMoment
from weightspace.bayes.scores import SignalToNoise as SignalToNoise
from weightspace.bayes.search import BayesianIMP as BayesianIMP
from weightspace.bayes.search import Variational as Variational
