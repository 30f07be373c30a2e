"""How the pictures of a report look: type, colours, names, files.

Each is 3.3 inches wide with letters of at least 7 points. Up to `MAX_NAMED`
series have a colour of Okabe and Ito's palette (which colour-blind readers
tell apart), a dash pattern and a name; more are coloured by the quantity that
was swept, with a colour bar, and dashed by a second one of few values.
"""

import dataclasses
import io
import math
import textwrap

import matplotlib
from matplotlib import cm
from matplotlib import colors
from matplotlib import figure
from matplotlib import lines
import numpy as np
from PIL import Image

from latemask.report import series as series_lib

MAX_NAMED = 8
WIDTH_INCHES = 3.3
PANEL_INCHES = 1.55
_STYLE = {
    "font.size": 7, "axes.labelsize": 8, "axes.titlesize": 8,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "lines.linewidth": 1.1, "axes.grid": True,
    "grid.color": "0.9", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "legend.frameon": False, "legend.handlelength": 2.6,
    "legend.borderaxespad": 0.2, "legend.labelspacing": 0.25,
    # Same data, same bytes; and no more digits than a screen has.
    "svg.hashsalt": "latemask", "path.simplify_threshold": 0.3,
}
# Okabe and Ito, without the yellow that is lost on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00",
          "#56B4E9", "#7F7F7F")
DASHES = ("-", (0, (4, 1.2)), (0, (1.2, 1)), (0, (5, 1, 1, 1)))
MARKERS = "osD^vPX<"
_FEW_LEVELS = 8
# Dark to light, without the end that is lost on white.
MAP = colors.LinearSegmentedColormap.from_list(
    "cut_viridis", matplotlib.colormaps["viridis"](np.linspace(0, 0.9, 256)))
_NAMES = {3: "thousands", 6: "millions", 9: "billions"}


@dataclasses.dataclass(frozen=True)
class Look:
  """How series are told apart.

  Fields:
    colors, dashes, markers: one a series.
    handles: (line, name) of the legend.
    bar: (ScalarMappable, name, ticks or None, their names) or None.
  """

  colors: list
  dashes: list
  markers: list
  handles: list
  bar: tuple | None


def pick(looks, indices):
  """Returns the look of some of the series, as they look among all."""
  named = looks.handles if looks.bar else [looks.handles[i] for i in indices]
  return Look(*([values[i] for i in indices] for values in (
      looks.colors, looks.dashes, looks.markers)), named, looks.bar)


def look(series):
  """Returns the `Look` of some series."""
  if len(series) <= MAX_NAMED:
    return named([cut(s.label) for s in series])
  levels = series_lib.numbers(series)
  count = {key: len(set(values)) for key, values in levels.items()}
  if levels:
    key = max(levels, key=count.get)  # The first of equals.
    name, values = series_lib.short(key), levels[key]
  else:
    key, name = None, "number in the table"
    values = [s.number for s in series]
  shade, bar = _bar(values, name)
  dashes, handles = ["-"] * len(series), []
  others = {k: [str(s.values[k]) for s in series]
            for k in series[0].values if k != key}
  for other, texts in others.items():
    names = list(dict.fromkeys(texts))
    if 2 <= len(names) <= len(DASHES):
      dashes = [DASHES[names.index(text)] for text in texts]
      handles = [(lines.Line2D([], [], color="0.3", linestyle=dash),
                  cut(f"{series_lib.short(other)} {text}"))
                 for dash, text in zip(DASHES, names)]
      break
  markers = [MARKERS[DASHES.index(d)] for d in dashes]
  return Look([shade(v) for v in values], dashes, markers, handles, bar)


def named(names):
  """Returns the `Look` of up to `MAX_NAMED` series by their names."""
  count = len(names)
  dashes = [DASHES[i % 4] for i in range(count)]
  return Look(list(COLORS[:count]), dashes, list(MARKERS[:count]), [
      (lines.Line2D([], [], color=color, linestyle=dash), name)
      for color, dash, name in zip(COLORS, dashes, names)], None)


def _bar(values, name):
  """Returns (value -> colour, what a colour bar needs)."""
  levels = sorted(set(values))
  if len(levels) <= _FEW_LEVELS:
    norm = colors.BoundaryNorm(np.arange(len(levels) + 1) - 0.5, 256)
    mappable = cm.ScalarMappable(norm, MAP)
    return (lambda v: mappable.to_rgba(levels.index(v))), (
        mappable, name, range(len(levels)), [f"{v:g}" for v in levels])
  is_wide = levels[0] > 0 and levels[-1] > 30 * levels[0]
  norm = (colors.LogNorm if is_wide else colors.Normalize)(
      levels[0], levels[-1])
  mappable = cm.ScalarMappable(norm, MAP)
  return mappable.to_rgba, (mappable, name, None, None)


def point_style(looks):
  """Returns the legend of a picture of points, which have no dashes."""
  markers = MARKERS if looks.bar else looks.markers
  return [(lines.Line2D([], [], color=line.get_color(), linestyle="",
                        marker=marker, markersize=4), name)
          for (line, name), marker in zip(looks.handles, markers)]


def cut(label, size=52):
  """Returns a label that fits the width of a picture: one line, or two."""
  if len(label) <= size:
    return label
  # Folders, and the keys in brackets.
  folders, bracket, keys = label.partition(" (")
  if bracket:
    return f"{_shorten(folders, size)}\n{_shorten('(' + keys, size)}"
  lines_of = wrap(label)
  return lines_of if lines_of.count("\n") == 1 else _shorten(label, size)


def wrap(label, size=54):
  """Returns a label as lines that fit the width of a picture, cut nowhere."""
  return "\n".join(textwrap.wrap(label, size, subsequent_indent="  "))


def _shorten(text, size):
  half = size // 2 - 2
  return text if len(text) <= size else f"{text[:half]} … {text[-half:]}"


def unit(largest, what):
  """Returns (factor, label of an axis) so that numbers on it are short."""
  if not (largest > 0 and math.isfinite(largest)):
    return 1.0, what
  power = 3 * math.floor(math.log10(largest) / 3)
  if power < 3 or (what == "steps" and largest < 20_000):
    return 1.0, what
  return 10.0 ** -power, (f"{what} ({_NAMES[power]})" if power in _NAMES
                          else f"{what} ($10^{{{power}}}$)")


def begin(num_panels, looks, panel_inches=PANEL_INCHES, **options):
  """Returns (figure, axes of its panels), with legend and colour bar."""
  height = num_panels * panel_inches + 0.25
  columns = 1
  if looks and looks.handles:
    lines_of = [name.split("\n") for _, name in looks.handles]
    longest = max(len(line) for name in lines_of for line in name)
    columns = 3 if longest <= 11 else 2 if longest <= 25 else 1
    height += 0.14 * -(-sum(map(len, lines_of)) // columns) + 0.05
  if looks and looks.bar:
    height += 0.5
  fig = figure.Figure((WIDTH_INCHES, height), layout="constrained")
  axes = fig.subplots(num_panels, 1, squeeze=False, **options)[:, 0]
  if looks and looks.handles:
    fig.legend(*zip(*looks.handles), loc="outside upper left", ncols=columns,
               columnspacing=1.0)
  if looks and looks.bar:
    mappable, name, ticks, names = looks.bar
    bar = fig.colorbar(mappable, ax=list(axes), location="top", aspect=38,
                       pad=0.02, fraction=0.05)
    bar.set_label(name, labelpad=3)
    bar.outline.set_linewidth(0.4)
    if ticks is not None:
      bar.set_ticks(list(ticks), labels=names, minor=False)
      bar.ax.minorticks_off()
  return fig, axes


def begin_at_zero(axis):
  """Lets an axis begin at 0, unless something on it is less."""
  data = axis.axes.dataLim
  lowest, highest = (data.intervaly if axis.axis_name == "y"
                     else data.intervalx)
  if 0 <= lowest and highest > 0:
    axis.set_view_interval(0, 1.06 * highest, ignore=True)


def save(fig, folder, name):
  """Writes a figure as folder/name.png and folder/name.svg."""
  pixels = io.BytesIO()
  fig.savefig(pixels, dpi=300)
  # A third of the bytes, and no difference to be seen.
  Image.open(pixels).convert("RGB").quantize(
      256, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)
  fig.set_layout_engine("none")  # It is laid out: half of the work.
  fig.savefig(folder / f"{name}.svg",
              metadata={"Date": None, "Creator": None})


def style():
  """Returns the context that all of these are to be drawn and saved in."""
  return matplotlib.rc_context(_STYLE)


def spread(deviation):
  """Returns a deviation as matplotlib takes it: None where it is not known."""
  return None if math.isnan(deviation) else deviation


def number(value, form):
  """Returns a number, or a dash for what is not known."""
  return format(value, form) if math.isfinite(value) else "–"
