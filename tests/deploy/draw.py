"""Draws a Grafana dashboard as an SVG picture, from its JSON and what a Prometheus answers.

Usage: draw.py DASHBOARD.json PROMETHEUS_URL SECONDS RATE_INTERVAL OUT.svg

It knows what the dashboards in deploy/grafana use (stat, timeseries, table) and where they
put it, asks each panel's own queries for the last SECONDS, and draws what comes. It is not
Grafana, and the picture says so. Prints a line for each panel: how many series it found.
An unknown kind of panel and a query that Prometheus refuses are errors (exit code 1).
"""

import json
import math
import sys
import time
import urllib.parse
import urllib.request
from html import escape

COLUMN, ROW, GAP, TOP = 50, 34, 4, 46
COLOURS = ["#3871dc", "#e0752d", "#37872d", "#c4162a", "#8f3bb8", "#0a9396", "#b58900", "#5f6b7a"]
LEGEND_ROWS = 3
POINTS = 240


class Prometheus:
    def __init__(self, url, seconds, interval):
        self.url, self.interval = url, interval
        # One moment for all panels.
        self.end = time.time()
        self.start = self.end - seconds
        self.step = max(1, round(seconds / POINTS))

    def ask(self, path, **arguments):
        query = urllib.parse.urlencode(arguments)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            sys.exit(f"{arguments['query']}: {error.read().decode()}")

    def series(self, target):
        query = target["expr"].replace("$instance", ".+").replace("$__rate_interval", self.interval)
        if target.get("instant"):
            return [(one["metric"], [one["value"]]) for one in self.ask("query", query=query, time=self.end)]
        found = self.ask("query_range", query=query, start=self.start, end=self.end, step=self.step)
        return [(one["metric"], one["values"]) for one in found]


def power_of(base, value):
    return max(0, math.floor(math.log(value, base))) if value > 0 else 0


def shown(value, unit):
    """A number as Grafana says it in `unit`."""
    if value is None or math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and value > 0:
        for factor, name in [(1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h")]:
            if value < factor * (1000 if factor < 1 else 60) or name == "h":
                return f"{value / factor:.3g} {name}"
    if unit in ("bytes", "Bps"):
        power = power_of(1024, value)
        return f"{value / 1024**power:.3g} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}" + "/s" * (unit == "Bps")
    suffix = {"s": " s", "cps": " c/s", "reqps": " req/s"}.get(unit, "")
    for factor, name in [(1e9, " G"), (1e6, " M"), (1e3, " K")]:
        if value >= factor:
            return f"{value / factor:.3g}{name}{suffix}"
    return f"{value:.3g}{suffix}"


def text(x, y, words, size=11, fill="#333", anchor="start", weight="normal", width=None):
    if width is not None:
        most = max(1, int(width / (size * 0.53)))
        words = words if len(words) <= most else words[: most - 1] + "…"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def named(target, labels):
    name = target.get("legendFormat", "")
    for label, value in labels.items():
        name = name.replace("{{" + label + "}}", value)
    return name


def round_above(value, unit):
    """The next of 1, 2, 2.5, 5 and 10 times a power of ten, of bytes in what they are said in."""
    if unit in ("bytes", "Bps"):
        scale = 1024 ** power_of(1024, value)
        return scale * round_above(value / scale, None)
    power = 10 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= value)


def curve(points, place):
    """Pieces of a line: what is missing or no number interrupts it."""
    pieces, piece = [], []
    for moment, value in points:
        if math.isnan(value):
            pieces.append(piece)
            piece = []
        else:
            piece.append("{:.1f},{:.1f}".format(*place(moment, value)))
    return [piece for piece in [*pieces, piece] if piece]


def numbers(values):
    return [(float(moment), float(value)) for moment, value in values]


def draw_timeseries(panel, series, box, prometheus):
    x, y, w, h = box
    unit = panel["fieldConfig"]["defaults"].get("unit")
    drawn = []
    lines = [(named(target, labels), numbers(values)) for target, labels, values in series]
    lines.sort(key=lambda line: -max([v for _, v in line[1] if not math.isnan(v)], default=0))
    rows = min(LEGEND_ROWS, (len(lines) + 1) // 2)
    left, right, top, bottom = x + 62, x + w - 10, y + 30, y + h - 20 - 14 * rows
    highest = max([v for _, points in lines for _, v in points if not math.isnan(v)], default=0)
    ceiling = round_above(highest, unit) if highest > 0 else 1

    def place(moment, value):
        share = (moment - prometheus.start) / (prometheus.end - prometheus.start)
        return left + share * (right - left), bottom - value / ceiling * (bottom - top)

    for step in range(5):
        level = ceiling * step / 4
        _, at = place(prometheus.start, level)
        drawn.append(f'<path d="M{left} {at:.1f}H{right}" stroke="#e3e6ea"/>')
        drawn.append(text(left - 6, at + 4, shown(level, unit), 10, "#777", "end"))
    for step in range(4):
        moment = prometheus.start + (prometheus.end - prometheus.start) * (step + 0.5) / 4
        at, _ = place(moment, 0)
        clock = time.strftime("%H:%M:%S", time.gmtime(moment))
        drawn.append(text(at, bottom + 13, clock, 10, "#777", "middle"))
    if not lines:
        drawn.append(text((left + right) / 2, (top + bottom) / 2, "No data", 13, "#999", "middle"))
    for number, (name, points) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        for piece in curve(points, place):
            drawn.append(f'<polyline points="{" ".join(piece)}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        if number < rows * 2:
            at, under = x + 12 + (number % 2) * (w / 2 - 6), bottom + 28 + 14 * (number // 2)
            drawn.append(f'<rect x="{at}" y="{under - 6}" width="12" height="3" fill="{colour}"/>')
            more = f" … and {len(lines) - rows * 2} more" if number == rows * 2 - 1 and len(lines) > rows * 2 else ""
            drawn.append(text(at + 17, under, (name or "value") + more, 10.5, "#444", width=w / 2 - 30))
    return drawn


def threshold(panel, value):
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    colour = "green"
    for step in steps:
        if step["value"] is None or (value is not None and value >= step["value"]):
            colour = step["color"]
    return {"green": "#37872d", "orange": "#e0752d", "red": "#c4162a"}.get(colour, colour)


def draw_stat(panel, series, box, prometheus):
    x, y, w, h = box
    points = numbers(series[0][2]) if series else []
    last = points[-1][1] if points else None
    colour = threshold(panel, last)
    drawn = []
    highest = max([v for _, v in points if not math.isnan(v)], default=0) or 1

    def place(moment, value):
        share = (moment - prometheus.start) / (prometheus.end - prometheus.start)
        return x + share * w, y + h - value / highest * (h - 78) - 1

    for piece in curve(points, place):
        drawn.append(f'<polyline points="{" ".join(piece)}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
    words = shown(last, panel["fieldConfig"]["defaults"].get("unit"))
    drawn.append(text(x + w / 2, y + 64, words, 30, colour, "middle", "600"))
    return drawn


def draw_table(panel, series, box, _prometheus):
    x, y, w, h = box
    organised = next(one["options"] for one in panel["transformations"] if one["id"] == "organize")
    hidden, names = organised["excludeByName"], organised["renameByName"]
    rows, columns = {}, []
    for target, labels, values in series:
        labels = {name: value for name, value in labels.items() if not hidden.get(name)}
        row = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
        column = f"Value #{target['refId']}"
        row[column] = shown(float(values[-1][1]), None)
        columns += [name for name in [*labels, column] if name not in columns]
    columns.sort(key=lambda name: (name.startswith("Value"), name))
    drawn = []
    width = (w - 20) / max(1, len(columns))
    for number, column in enumerate(columns):
        drawn.append(text(x + 12 + number * width, y + 44, names.get(column, column), 11, "#3871dc", weight="600"))
    most = int((h - 50) / 20)
    for line, row in enumerate(list(rows.values())[:most]):
        under = y + 64 + line * 20
        drawn.append(f'<path d="M{x + 8} {under - 14}H{x + w - 8}" stroke="#e3e6ea"/>')
        for number, column in enumerate(columns):
            drawn.append(text(x + 12 + number * width, under, row.get(column, ""), 11, width=(width - 8) * 0.85))
    if not rows:
        drawn.append(text(x + w / 2, y + h / 2, "No data", 13, "#999", "middle"))
    return drawn


DRAW = {"timeseries": draw_timeseries, "stat": draw_stat, "table": draw_table}


def draw_panel(panel, prometheus):
    place = panel["gridPos"]
    x, y = place["x"] * COLUMN + GAP, TOP + place["y"] * ROW + GAP
    w, h = place["w"] * COLUMN - 2 * GAP, place["h"] * ROW - 2 * GAP
    if panel["type"] not in DRAW:
        sys.exit(f"{panel['title']}: {panel['type']} can't be drawn")
    series = [
        (target, labels, values)
        for target in panel["targets"]
        for labels, values in prometheus.series(target)
    ]
    print(f"{len(series):4} {panel['title']}")
    frame = f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="#fff" stroke="#dfe3e8"/>'
    size = 11.5 if panel["type"] == "stat" else 12.5
    title = text(x + 12, y + 20, panel["title"], size, "#222", weight="600", width=w - 16)
    return [frame, title, *DRAW[panel["type"]](panel, series, (x, y, w, h), prometheus)]


def main():
    file, url, seconds, interval, out = sys.argv[1:]
    with open(file, encoding="utf-8") as opened:
        dashboard = json.load(opened)
    prometheus = Prometheus(url, int(seconds), interval)
    panels = dashboard["panels"]
    drawn = [piece for panel in panels for piece in draw_panel(panel, prometheus)]
    height = TOP + max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * ROW + 26
    width = 24 * COLUMN
    day = time.strftime("%Y-%m-%d", time.gmtime(prometheus.end))
    under = f"Drawn by tests/deploy/draw.py from this dashboard's queries, {day}, times in UTC; not by Grafana."
    with open(out, "w", encoding="utf-8") as picture:
        picture.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="Inter, Roboto, Helvetica, Arial, sans-serif">\n'
            f'<rect width="{width}" height="{height}" fill="#f4f5f7"/>\n'
        )
        picture.write(text(12, 29, dashboard["title"], 17, "#222", weight="600") + "\n")
        picture.write("\n".join(drawn) + "\n")
        picture.write(text(12, height - 9, under, 10.5, "#888") + "\n</svg>\n")


main()
