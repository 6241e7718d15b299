"""A model as a tree that opens in a notebook, with the charge and the flow of each parameter beside it."""

from dataclasses import dataclass
from typing import Any

import jax

from .._training._diagnosis import BALANCED

# Blue and orange, as in the other figures: who is pulled up, who is pulled down; pale, to be written on.
UP, DOWN, EVEN = "#cfe3f2", "#f9dcc4", "#e8e8e8"


@dataclass(frozen=True)
class Tree:
    """A tree that a notebook shows.

    Attributes:
        html: the tree, self-contained.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html


def tree(params: Any, report: Any) -> Tree:
    """The parameters as a tree (treescope), and beside each array of a symmetry what pushes it.

    Blue is an array that noise and decay together pull up, orange one that they pull down, grey one that is balanced.
    The path that treescope copies from a node, such as `.layers[0].weight`, is what a leg selects: `lambda p:
    p.layers[0].weight`.

    Args:
        params: the parameters, any pytree.
        report: what `diagnose` returned for them.

    Returns:
        An object that a notebook shows; its `html` is the page of it.

    Raises:
        ImportError: if treescope is not installed.
    """
    try:
        import treescope  # optional, and needed by this picture alone
        from treescope import rendering_parts as parts
    except ImportError as error:
        raise ImportError("plots.tree draws with treescope, which is not installed: pip install treescope.") from error

    notes: dict[str, list[tuple[str, str]]] = {}
    for row in report.rows:
        for side, sign in ((row.plus, 1), (row.minus, -1)):
            way, color = ("pulled up", UP) if sign * row.push > 0 else ("pulled down", DOWN)
            if row.relative_flow < BALANCED:
                way, color = "balanced", EVEN
            text = (
                f"{way}: ‖Q‖ {row.charge:.2g}, flow {row.flow:.2g}, relative flow {row.relative_flow:.2f} ({row.kind})"
            )
            for path in filter(None, side.split(", ")):
                notes.setdefault(path.removeprefix("params"), []).append((text, color))

    def beside(value: Any, path: str | None) -> Any:
        if not isinstance(value, jax.Array) or path not in notes:
            return None
        lines = [
            parts.custom_style(parts.text(text), f"background:{color};color:black;border-radius:0.3em;padding:0 0.4em")
            for text, color in notes[path]
        ]
        array = parts.text(f"{value.dtype}{list(value.shape)} ")
        return treescope.VisualizationFromTreescopePart(
            parts.RenderableAndLineAnnotations(
                parts.siblings(array, *(piece for line in lines for piece in (line, " "))),
                parts.build_copy_button(path),
            )
        )

    # Notes hide in a folded node, so nodes are open as far as a few screens go.
    with treescope.active_autovisualizer.set_scoped(beside), treescope.using_expansion_strategy(max_height=200):
        return Tree(treescope.render_to_html(params, compressed=False))
