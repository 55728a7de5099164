"""All sparsifiers: importing this module fills `SPARSIFIERS`."""

from thinwire.train.sparsity import frozen as frozen
from thinwire.train.sparsity import group_lasso as group_lasso
from thinwire.train.sparsity import hardconcrete as hardconcrete
from thinwire.train.sparsity import l1 as l1
from thinwire.train.sparsity import soft_topk as soft_topk
from thinwire.train.sparsity import topk as topk
from thinwire.train.sparsity.base import SPARSIFIERS as SPARSIFIERS
