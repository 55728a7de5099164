"""Drop what a circuit does not need: what the paper's authors did by hand.

A ranking by τ keeps every node above the last one needed, and so keeps passengers. Here chunks of nodes, weakest first,
are taken out while the target still holds; chunks shrink to single nodes, and the sweep ends when no node can go.
"""

from collections.abc import Callable, Sequence

FIRST_CHUNKS = 8
"""The first sweep tries to take out this many chunks."""


def simplify(nodes: Sequence[int], meets: Callable[[Sequence[int]], bool]) -> list[int]:
    """A subset of `nodes` (weakest first) that `meets` the target and from which no single node can be dropped."""
    kept = list(nodes)
    size = max(1, len(kept) // FIRST_CHUNKS)
    while True:
        before = len(kept)
        start = 0
        while start < len(kept):
            rest = kept[:start] + kept[start + size :]
            if meets(rest):
                kept = rest
            else:
                start += size
        if size == 1 and len(kept) == before:
            return kept
        size = max(1, size // 2)
