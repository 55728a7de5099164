"""Ways to sparsity: one registered class a file."""

from thinwire.train.sparsity import topk as topk
from thinwire.train.sparsity.base import SPARSIFIERS as SPARSIFIERS
from thinwire.train.sparsity.base import Sparsifier as Sparsifier
