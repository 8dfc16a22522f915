"""Memory from moment to moment, as an animated GIF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from PIL import Image

from experiments import style
from experiments.blocks_colours import OTHERS, OWNERS, STATES, Palette, rgb, tint
from experiments.blocks_grid import lay_out
from experiments.blocks_map import BORDER, EMPTY, HATCH, draw_map, explain_states, hide_frame
from experiments.blocks_snapshot import Snapshot, State
from experiments.blocks_words import say_grouping, say_moment
from experiments.words import say_share

_SIZE, _DPI = (8.4, 5.6), 100
_MOST_CELLS = 1 << 14
_HELD, _IDLE = "#1b7f79", STATES[State.IDLE]
_GREYS = 32
"""Of the 256 colours that a GIF has: for text, and edges of white and black."""


class Film:
    """Frames, one for each snapshot it is shown; times in nanoseconds."""

    def __init__(
        self, *, name: str, footer: str, span_ns: tuple[int, int], request: str | None = None
    ) -> None:
        self.frames: list[Image.Image] = []
        self._name = name
        self._footer = footer
        self._request = request
        self._palette = Palette()
        self._colours = _gif_palette()
        from_ns, to_ns = span_ns
        unit, self._unit_ns = style.choose_clock(to_ns - from_ns)
        self._clock = f"simulated time [{unit}]"
        self._span = from_ns / self._unit_ns, to_ns / self._unit_ns
        self._past: list[tuple[float, float, float]] = []
        """(time, share held, share held or idle) of the frames so far."""

    def add(self, snapshot: Snapshot) -> None:
        """Draw the next frame."""
        blocks, counts = len(snapshot.cells) - 1, snapshot.count()
        held = snapshot.held / blocks
        self._past.append(
            (snapshot.at_ns / self._unit_ns, held, held + counts[State.IDLE] / blocks)
        )
        with style.styled():
            figure = Figure(figsize=_SIZE, dpi=_DPI)
            canvas = FigureCanvasAgg(figure)
            self._write_head(figure, snapshot)
            self._draw_cells(figure.add_axes((0.07, 0.36, 0.9, 0.52)), snapshot)
            self._draw_past(figure.add_axes((0.07, 0.125, 0.9, 0.13)))
            figure.text(0.015, 0.015, self._footer, fontsize=6.5, color=style.QUIET)
            canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        picture = Image.fromarray(pixels[..., :3].copy())
        self.frames.append(picture.quantize(palette=self._colours, dither=Image.Dither.NONE))

    def save(self, path: Path, *, fps: float) -> int:
        """Write the GIF, which plays for ever. Returns for how many milliseconds it shows each
        frame: the format counts in hundredths of a second."""
        shown_ms = 10 * round(100 / fps)
        first, *rest = self.frames
        first.save(
            path,
            format="GIF",
            save_all=True,
            append_images=rest,
            duration=shown_ms,
            loop=0,
            optimize=False,
        )
        return shown_ms

    def _write_head(self, figure: Figure, snapshot: Snapshot) -> None:
        shared = snapshot.count()[State.SHARED]
        blocks = len(snapshot.cells) - 1
        held = f"{snapshot.held:,} of {blocks:,} blocks held ({say_share(snapshot.held / blocks)})"
        figure.text(
            *(0.015, 0.95, f"{self._name}: {held}"), fontsize=11, fontweight="bold", color=style.INK
        )
        figure.text(
            *(0.985, 0.95, say_moment(snapshot.at_ns)),
            ha="right",
            fontsize=11,
            fontweight="bold",
            color=style.INK,
        )
        step = "no step" if snapshot.step is None else f"step {snapshot.step:,}"
        crowd = f"{len(snapshot.holders):,} run, {snapshot.waiting:,} wait"
        figure.text(0.015, 0.905, f"{crowd}, {shared:,} blocks shared", color=style.INK)
        figure.text(0.985, 0.905, step, ha="right", color=style.QUIET)

    def _draw_cells(self, axes: Axes, snapshot: Snapshot) -> None:
        grid = lay_out(snapshot.cells, aspect=2.4, most=_MOST_CELLS)
        colours = self._palette.assign(snapshot.holders)
        outlined = None if self._request is None else snapshot.holder(self._request)
        draw_map(axes, grid, colours, outlined=outlined)
        some = tuple(Patch(facecolor=colour) for colour in OWNERS[:3])
        others = Patch(facecolor=OTHERS)
        states = explain_states()
        axes.legend(
            handles=[some, others, *states],
            labels=["one sequence", "other sequences", *(patch.get_label() for patch in states)],
            handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
            ncols=6,
            loc="upper left",
            bbox_to_anchor=(-0.01, -0.01),
            handlelength=1.1,
            handleheight=1,
            columnspacing=1.4,
            fontsize=8,
        )
        if grouping := say_grouping(grid.per_cell):
            axes.set_title(grouping, fontsize=7, pad=2)

    def _draw_past(self, axes: Axes) -> None:
        at, held, kept = zip(*self._past, strict=True)
        axes.fill_between(at, 0, held, color=_HELD, linewidth=0)
        axes.fill_between(at, held, kept, color=_IDLE, linewidth=0)
        axes.set(xlim=self._span, ylim=(0, 1), yticks=[0, 1], yticklabels=["0", "100 %"])
        axes.set_xlabel(self._clock, fontsize=8, labelpad=2)
        axes.set_title("held, and idle above it: share of the blocks", fontsize=8, pad=3)
        hide_frame(axes)


def _gif_palette() -> Image.Image:
    """An image with the colours of all frames: what is drawn, its edges, and greys."""
    drawn = [*OWNERS, OTHERS, *STATES.values(), _HELD, HATCH, BORDER]
    mixed = [tint(colour, share) for colour in [*OWNERS, OTHERS] for share in (EMPTY, 0.55, 0.78)]
    greys = [(at * 255 // (_GREYS - 1),) * 3 for at in range(_GREYS)]
    colours = [*map(rgb, [*drawn, *mixed]), *greys]
    assert len(colours) <= 256
    image = Image.new("P", (1, 1))
    image.putpalette([channel for colour in colours for channel in colour])
    return image
