"""The study on one HTML page: tables, figures, and the published figures beside them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from .. import __version__
from ..network import reference_network
from .files import write_file

__all__ = ["write_report"]

Rows = Sequence[dict[str, Any]]

PUBLISHED = "Sci Rep 13, 20865 (2023)"
# Fraction of significant multiplications at the first and the last pruning round.
PUBLISHED_FRACTIONS = {
    "space_invaders": (0.065, 0.022),
    "breakout": (0.018, 0.009),
    "robotank": (0.184, 0.059),
}
PUBLISHED_WORDS = (
    "Published besides: thresholds alone save 5.5-fold (Robotank) to 55-fold (Breakout), with "
    "pruning 20- to 100-fold; 0.01 is the best of the four thresholds; with sparsity the score "
    "falls fastest in SpaceInvaders and Breakout, and not in Enduro."
)
PUBLISHED_FRAMES = 10_000_000  # with fewer a study is called a small one
LAYERS = ("conv1", "conv2", "conv3", "fc1", "out")
DELTA = "float delta"
COLOURS = {"float dense": "#888888", "float delta": "#1f77b4", "int8 delta": "#d62728"}
ASIDE = 0.008  # of sparsity, between the bars of two arithmetics of one network


def write_report(rows: Rows, folder: Path, *, threshold: float) -> Path:
    """Write the figures (SVG and PNG) and `report.html`, which holds them all; returns its path."""
    games = list(dict.fromkeys(row["game"] for row in rows))
    usual = [r for r in rows if r["threshold"] in (0.0, threshold)]
    parts = [_introduction(rows, threshold), "<h2>Multiplications saved</h2>", _savings(usual)]
    parts += ["<h2>Dense multiplications</h2>", _dense_table()]
    for game in games:
        of_game = [row for row in usual if row["game"] == game]
        parts.append(f"<h2>{_title(game)}</h2>")
        parts.append(_figure(folder, f"sparsity-{game}", _over_sparsity(of_game)))
        parts.append(_score_table(of_game))
        parts.append(_layer_table(of_game))
    delta = [row for row in usual if row["variant"] == DELTA]
    parts.append("<h2>Input changes and multiplications by zero</h2>")
    parts.append(_figure(folder, "input-changes", _input_changes(delta)))
    swept = [row for row in rows if row["variant"] == DELTA]
    for game in games:
        of_game = [row for row in swept if row["game"] == game]
        if len({row["threshold"] for row in of_game}) > 1:
            parts.append(f"<h2>Thresholds, {_title(game)}</h2>")
            parts.append(_figure(folder, f"thresholds-{game}", _thresholds(of_game)))
    page = PAGE.format(body="\n".join(parts), version=__version__)
    path = folder / "report.html"
    write_file(path, page)
    return path


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Delta networks and pruning</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }}
td, th {{ padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child {{ text-align: left }}
figure {{ margin: 1em 0 }} img {{ max-width: 100% }}
.note {{ background: #fff6d6; padding: .6em 1em }}
</style>
<h1>Delta networks and pruning</h1>
{body}
<p>Made by reticent {version}; all numbers are in results.csv beside this page.</p>
"""


def _title(game: str) -> str:
    return game.replace("_", " ").title().replace(" ", "")


def _introduction(rows: Rows, threshold: float) -> str:
    most = max(row["frames"] for row in rows)
    seeds = len({(row["game"], row["method"], row["seed"]) for row in rows})
    games = len({row["game"] for row in rows})
    text = (
        f"<p>{len(rows)} measurements of {games} games, {rows[0]['episodes']} whole episodes each; "
        f"threshold {threshold:g} where none is named. Intervals are 95 % bootstrap intervals of "
        f"the mean score. Beside ours: {PUBLISHED}.</p>"
    )
    if most < PUBLISHED_FRAMES or seeds < 2 * games:
        frames = f"at most {most / 1e6:g} M frames a training" if most > 0 else "frames unknown"
        text += (
            f"<p class=note>This is a small-scale study: {frames}, {seeds} trained families in "
            f"{games} games. It is no reproduction at the published scale.</p>"
        )
    return text


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + line(heads, "th") + "".join(line(r, "td") for r in rows) + "</table>"


def _savings(rows: Rows) -> str:
    """Every network, float delta, beside what was published for its game."""
    cells = []
    for game in dict.fromkeys(row["game"] for row in rows):
        first, last = PUBLISHED_FRACTIONS.get(game, (0.0, 0.0))
        for row in _by_density([row for row in rows if row["game"] == game]):
            cells.append(
                [
                    f"{_title(game)}, {_name(row)}",
                    f"{row['density']:.3f}",
                    f"{row['fraction']:.4f}",
                    f"{1 / row['fraction']:.1f}" if row["fraction"] else "-",
                    f"{first} to {last}" if first else "-",
                    f"{1 / first:.0f} to {1 / last:.0f}" if first else "-",
                ]
            )
    heads = ["network", "density", "fraction", "fewer, times", "published", "fewer, times"]
    return (
        "<p>Significant over dense multiplications, float delta; published from the first to the "
        f"last round.</p>{_table(heads, cells)}<p>{PUBLISHED_WORDS}</p>"
    )


def _by_density(rows: Rows) -> list[dict[str, Any]]:
    """The float delta rows, the densest first."""
    return sorted((r for r in rows if r["variant"] == DELTA), key=lambda r: -r["density"])


def _dense_table() -> str:
    """Of the reference network; the last layer has as many outputs as the game has actions."""
    layers = reference_network(1).linear
    rows = [
        [layer.name, "x".join(map(str, layer.out_shape)), f"{layer.dense_multiplications:,}"]
        for layer in layers[:-1]
    ]
    rows.append(["out", "n", f"{layers[-1].dense_multiplications:,} n"])
    return _table(["layer", "outputs", "dense multiplications"], rows)


def _name(row: dict[str, Any]) -> str:
    if row["method"] == "agent":
        return f"agent {row['network']}"
    return f"{row['method']} {row['seed']}, round {row['round']}"


def _score_table(rows: Rows) -> str:
    cells = []
    for row in rows:
        cells.append(
            [
                _name(row),
                f"{row['frames'] / 1e6:.1f} M" if row["frames"] > 0 else "-",
                f"{row['density']:.3f}",
                row["variant"],
                f"{row['score']:,.1f}",
                f"{row['low']:,.1f} to {row['high']:,.1f}",
                f"{row['fraction']:.4f}",
                f"{1 / row['fraction']:.1f}" if row["fraction"] else "-",
            ]
        )
    heads = [
        "network",
        "frames",
        "density",
        "arithmetic",
        "score",
        "95 % interval",
        "fraction",
        "fewer, times",
    ]
    return _table(heads, cells)


def _layer_table(rows: Rows) -> str:
    """Each layer of the densest and the sparsest network, float delta."""
    delta = _by_density(rows)
    cells = []
    for found in [delta[0], delta[-1]][: len(delta)]:
        for i, layer in enumerate(LAYERS):
            significant, dense = found[f"significant_{i}"], found[f"dense_{i}"]
            cells.append(
                [
                    f"density {found['density']:.3f}, {layer}",
                    f"{dense:,}",
                    f"{significant:,.0f}",
                    f"{significant / dense:.4f}",
                    f"{found[f'event_fraction_{i}']:.4f}",
                ]
            )
    heads = ["layer", "dense", "significant", "fraction", "inputs that fired"]
    return "<p>Multiplications a decision, float delta:</p>" + _table(heads, cells)


def _over_sparsity(rows: Rows) -> Any:
    figure, (scores, fractions) = pyplot.subplots(1, 2, figsize=(10, 3.6))
    families = dict.fromkeys((r["method"], r["seed"]) for r in rows)
    for marker, (method, seed) in zip("osD^v<>ph*" * 10, families, strict=False):
        for place, (variant, colour) in enumerate(COLOURS.items()):
            line = sorted(
                (
                    r
                    for r in rows
                    if (r["method"], r["seed"], r["variant"]) == (method, seed, variant)
                ),
                key=lambda r: -r["density"],
            )
            if not line:
                continue
            x = [1 - r["density"] for r in line]
            label = f"{variant}, {'agents' if method == 'agent' else f'{method} {seed}'}"
            means = [r["score"] for r in line]
            errors = [
                [r["score"] - r["low"] for r in line],
                [r["high"] - r["score"] for r in line],
            ]
            beside = [sparsity + ASIDE * (place - 1) for sparsity in x]
            scores.errorbar(
                beside, means, errors, marker=marker, color=colour, label=label, capsize=2
            )
            if variant != "float dense":
                fractions.plot(
                    x, [r["fraction"] for r in line], marker=marker, color=colour, label=label
                )
    published = PUBLISHED_FRACTIONS.get(rows[0]["game"])
    if published:
        for value in published:
            fractions.axhline(value, color="#2ca02c", linestyle=":", linewidth=1)
        fractions.plot([], [], color="#2ca02c", linestyle=":", label="published, first and last")
    scores.set(
        xlabel="sparsity",
        xlim=(-0.05, 1),
        ylabel="score",
        title=f"{_title(rows[0]['game'])}: score",
    )
    fractions.set(
        xlabel="sparsity",
        xlim=(-0.05, 1),
        ylabel="significant / dense",
        yscale="log",
        title="fraction of multiplications",
    )
    scores.legend(fontsize=7)
    fractions.legend(fontsize=7)
    return figure


def _input_changes(rows: Rows) -> Any:
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for game in dict.fromkeys(row["game"] for row in rows):
        of_game = [row for row in rows if row["game"] == game]
        axes.scatter(
            [row["event_fraction_0"] for row in of_game],
            [1 - row["fraction"] for row in of_game],
            label=_title(game),
        )
        for row in of_game:
            at = row["event_fraction_0"], 1 - row["fraction"]
            axes.annotate(f" {row['density']:.0%} of weights", at, fontsize=7)
    axes.margins(x=0.15)
    axes.set(xlabel="share of inputs that changed", ylabel="share of multiplications by zero")
    axes.legend(fontsize=8)
    return figure


def _thresholds(rows: Rows) -> Any:
    figure, (scores, fractions) = pyplot.subplots(1, 2, figsize=(10, 3.4))
    for name in dict.fromkeys(_name(row) for row in rows):
        line = sorted((r for r in rows if _name(r) == name), key=lambda r: r["threshold"])
        if len(line) < 2:
            continue
        x = [r["threshold"] for r in line]
        label = f"density {line[0]['density']:.3f}"
        errors = [[r["score"] - r["low"] for r in line], [r["high"] - r["score"] for r in line]]
        scores.errorbar(x, [r["score"] for r in line], errors, marker="o", label=label, capsize=2)
        fractions.plot(x, [r["fraction"] for r in line], marker="o", label=label)
    scores.set(xlabel="threshold", ylabel="score", xscale="log")
    fractions.set(xlabel="threshold", ylabel="significant / dense", xscale="log", yscale="log")
    scores.legend(fontsize=8)
    return figure


def _figure(folder: Path, name: str, figure: Any) -> str:
    """Save a figure in both forms; returns the tag that holds it."""
    figure.tight_layout()
    _save(folder / f"{name}.png", lambda file: figure.savefig(file, dpi=150, format="png"))
    drawn = _save(folder / f"{name}.svg", lambda file: figure.savefig(file, format="svg"))
    pyplot.close(figure)
    data = base64.b64encode(drawn).decode()
    return f'<figure><img alt="{name}" src="data:image/svg+xml;base64,{data}"></figure>'


def _save(path: Path, draw: Callable[[io.BytesIO], None]) -> bytes:
    content = io.BytesIO()
    draw(content)
    write_file(path, content.getvalue())
    return content.getvalue()
