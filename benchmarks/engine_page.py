"""What `benchmarks/engine.py` measured, as the tables of docs/engine.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARKS = ("<!-- engine:start -->", "<!-- engine:end -->")
PAGE = Path(__file__).parent.parent / "docs" / "engine.md"
LARGE = "8 layers × 2048, one weight in 1024"


def table(result: Mapping[str, Any]) -> str:
    """The tables of the page, in Markdown, of what a whole run wrote."""
    parts, machine_ = result["parts"], result["machine"]
    prune, step = parts["prune"], f"a pruning step of 8 pairs × 256 tokens, {LARGE}"
    rows = [(f"256 tokens, {LARGE}", parts["forward"], "sparse"), (step, prune, "sparse")]
    rows += [(f"the same late in a run, {prune['kept_late']:.0%} of the nodes left", prune, "late")]
    for task, row in parts["shipped"]["tasks"].items():
        rows += [(f"a pruning step of 8 × 16 pairs, {parts['shipped']['model']}, {task}", row, "sparse")]
    lines = [
        f"{machine_['processor']}, {machine_['threads']} threads, torch {machine_['torch']}.",
        "",
        "| | plain, ms | ours, dense, ms | sparse, ms | plain / sparse | dense / sparse |",
        "|---|---|---|---|---|---|",
    ]
    for name, row, kind in rows:
        plain, dense, sparse = (row["milliseconds"][way] for way in ("plain", "dense", kind))
        times = f"{plain:,.0f} | {dense:,.0f} | {sparse:,.0f}"
        lines.append(f"| {name} | {times} | {plain / sparse:.1f} | {dense / sparse:.1f} |")
    large, small = parts["forward"], parts["circuit"]
    each = small["microseconds_a_prompt"]
    lines += [
        "",
        f"The large model's weights take {large['memory_ratio']:.3f} of the dense model's memory, and its file "
        f"{large['file_ratio']:.4f} of their bytes. Of 256 tokens {large['tokens_apart']} have a logit further than "
        f"{large['near']:g} from the dense model's; the others are within {large['largest_difference_elsewhere']:.1g}.",
        "",
        f"A circuit of {small['nodes']} nodes takes {each['circuit']:.1f} µs a prompt of 16 to 25 tokens, the plain "
        f"forward of the large model {each['plain'] / 1e3:,.0f} ms: {small['circuit_speedup']:,.0f} times as long.",
        "",
        "Where the time goes, in percent:",
        "",
        "| operator | forward | | operator | pruning step |",
        "|---|---|---|---|---|",
    ]
    columns = [list(parts[part]["shares"].items()) for part in ("forward", "prune")]
    for (one, share), (other, of) in zip(*columns, strict=True):
        lines.append(f"| {one} | {100 * share:.1f} | | {other} | {100 * of:.1f} |")
    return "\n".join(lines)


def write_page(result: Mapping[str, Any]) -> None:
    """Put the tables between the marks of the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n{table(result)}\n{MARKS[1]}{after}", encoding="utf-8")
