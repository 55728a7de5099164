"""The generated part of the corpus: simple, repetitive Python idioms, each serving one task of Table 1."""

from thinwire.data.idioms import focus, others
from thinwire.data.idioms.document import IDIOMS, Idiom, documents, draw_idioms, generate, idiom, templates
from thinwire.data.idioms.scene import Scene

__all__ = ["IDIOMS", "Idiom", "Scene", "documents", "draw_idioms", "focus", "generate", "idiom", "others", "templates"]
