"""Bayesian networks and their lottery tickets, in Pyro."""

from weightspace.bayes.draws import draw as draw
from weightspace.bayes.draws import means as means
from weightspace.bayes.elbo import MeanFieldELBO as MeanFieldELBO
from weightspace.bayes.network import BayesianNetwork as BayesianNetwork
from weightspace.bayes.network import bayesian_positions as bayesian_positions
from weightspace.bayes.network import initial_std as initial_std
from weightspace.bayes.priors import Centred as Centred
from weightspace.bayes.priors import Horseshoe as Horseshoe
from weightspace.bayes.priors import Normal as Normal
from weightspace.bayes.priors import ScaleMixture as ScaleMixture
from weightspace.bayes.scores import Band as Band
from weightspace.bayes.scores import Bound as Bound
from weightspace.bayes.scores import Inclusion as Inclusion
from weightspace.bayes.scores import KLGain as KLGain
from weightspace.bayes.scores import Magnitude as Magnitude
from weightspace.bayes.scores import RootSecondMoment as RootSecondMoment
from weightspace.bayes.scores import SignalToNoise as SignalToNoise
from weightspace.bayes.search import BayesianIMP as BayesianIMP
from weightspace.bayes.search import Variational as Variational
