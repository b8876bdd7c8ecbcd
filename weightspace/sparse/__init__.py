"""Sparse networks that run fast."""

from weightspace.sparse.accelerate import Accelerated as Accelerated
from weightspace.sparse.accelerate import accelerate as accelerate
from weightspace.sparse.export import load_ticket as load_ticket
from weightspace.sparse.export import save_ticket as save_ticket
from weightspace.sparse.export import to_onnx as to_onnx
from weightspace.sparse.forms import Form as Form
from weightspace.sparse.gathered import Gathered as Gathered
from weightspace.sparse.gathered import MatrixConv as MatrixConv
from weightspace.sparse.gathered import gather_inputs as gather_inputs
from weightspace.sparse.input_scores import input_scores as input_scores
from weightspace.sparse.int8 import Int8Linear as Int8Linear
from weightspace.sparse.order import Order as Order
from weightspace.sparse.order import find_order as find_order
from weightspace.sparse.order import kept_magnitude as kept_magnitude
from weightspace.sparse.recover import Recovered as Recovered
from weightspace.sparse.recover import recover as recover
from weightspace.sparse.refit import refit as refit
from weightspace.sparse.refit import refit_module as refit_module
from weightspace.sparse.reorder import Reordered as Reordered
from weightspace.sparse.reorder import reorder as reorder
from weightspace.sparse.reorder import reorder_module as reorder_module
from weightspace.sparse.two_four import PackedTwoFour as PackedTwoFour
from weightspace.sparse.two_four import TwoFourLinear as TwoFourLinear
from weightspace.sparse.two_four import is_two_four as is_two_four
