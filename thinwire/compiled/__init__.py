"""Models on sparse kernels: compiled from dense ones or loaded directly, with fused layers; and edits of nonzeros."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.compiled.compile import compile_sparse as compile_sparse
    from thinwire.compiled.fused import CompiledTransformer as CompiledTransformer
    from thinwire.compiled.load import load_compiled as load_compiled

__getattr__, __dir__, __all__ = attach(
    __name__, {"CompiledTransformer": "fused", "compile_sparse": "compile", "load_compiled": "load"}
)
