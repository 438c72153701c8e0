"""How figures look in this book, and how they say what they show.

style()                                     once a notebook
fig, ax = plt.subplots()
...
finding("Loss falls to the entropy floor")
figure(caption="...", alt="...")            last: shows the figure with its words
"""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib_inline.backend_inline import set_matplotlib_formats

# Told apart by color-blind readers and, by their lightness, in grayscale; on a dark page the
# figure is inverted with its hues kept (book/_static/book.css).
BLUE, VERMILION, TEAL, AMBER, PURPLE, SKY = (
    "#1b4f8a",
    "#c8501e",
    "#2a9d8f",
    "#d99a0b",
    "#7b3f98",
    "#56a8dd",
)
GRAY = "#70757a"
PALETTE = (BLUE, VERMILION, TEAL, AMBER, PURPLE, SKY)
WIDTH = 7.2  # inches: what one column of text holds

_RC = {
    "figure.figsize": (WIDTH, 3.6),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.bbox": "tight",
    "svg.hashsalt": "from-bytes-to-chat",
    "svg.fonttype": "path",
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "axes.labelsize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9dce0",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "font.family": "DejaVu Sans",  # it comes with matplotlib: the same letters everywhere
    "font.size": 10,
}


def style() -> None:
    """Make every figure from here on look like this book, and the same on every machine."""
    mpl.rcParams.update(_RC)
    set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")


def finding(title: str, ax: plt.Axes | None = None) -> None:
    """Title the axes with the one sentence that the figure is there to show."""
    (ax or plt.gca()).set_title(title)


def label_line(line: plt.Line2D, text: str, *, at: int = -1, dx: float = 6, dy: float = 0) -> None:
    """Name a line beside its point number `at`, in its own color, in place of a legend."""
    x, y = line.get_xdata()[at], line.get_ydata()[at]
    line.axes.annotate(
        text,
        (x, y),
        (dx, dy),
        textcoords="offset points",
        color=line.get_color(),
        va="center",
        ha="left" if dx >= 0 else "right",
        annotation_clip=False,
    )


def label_level(ax: plt.Axes, y: float, text: str, color: str = GRAY) -> None:
    """A dashed line across the axes at height y, named at its right end."""
    ax.axhline(y, color=color, linestyle=(0, (4, 3)), linewidth=1.2)
    ax.annotate(
        text,
        (1, y),
        (-2, 3),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        color=color,
        ha="right",
        va="bottom",
        fontsize=9,
    )


def figure(fig: plt.Figure | None = None, *, caption: str, alt: str) -> None:
    """Show the figure with a caption, and with words for those who do not see it; close it.

    `alt` says what is to be seen (it travels inside the SVG, as its title), `caption` what it
    means; the caption is Markdown and may hold math.
    """
    assert caption and alt, "a figure needs both a caption and alternative text"
    fig = fig or plt.gcf()
    picture = io.StringIO()
    about = {"Date": None, "Creator": None, "Title": alt}
    with mpl.rc_context(_RC):
        fig.savefig(picture, format="svg", metadata=about, bbox_inches="tight")
    plt.close(fig)
    display({"image/svg+xml": picture.getvalue(), "text/plain": alt}, raw=True)
    display({"text/markdown": f"**Figure.** {caption}", "text/plain": caption}, raw=True)
