//! The run as a picture: what was broken when, and how far behind each server's reader was.

use std::{fmt::Write as _, time::Duration};

use super::{
    check::CONVERGED_WITHIN,
    plan::{Fault, Planned},
    report::Report,
};
use crate::link::Cut;

const WIDTH: f64 = 1_200.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 128.0;
const ROW: f64 = 22.0;
/// Between the rows of the servers and those of the links, and above the curves.
const GAP: f64 = 30.0;
const CURVES: f64 = 240.0;
/// Of the servers' curves.
const COLOURS: [&str; 5] = ["#1b6ca8", "#2a9d4a", "#8a4fbf", "#d1495b", "#8d6e00"];
/// Of the faults, with their names for the legend.
const FAULTS: [(&str, &str); 6] = [
    ("#222222", "cut: packets vanish"),
    ("#777777", "cut: refused"),
    ("#e9a23b", "packets get lost"),
    ("#9cc3e6", "slow line"),
    ("#5fae8b", "stopped, restarted"),
    ("#c8252c", "kill -9, restarted"),
];
/// Behind what happened after all was mended.
const QUIET: &str = "#eef6ee";

/// An SVG of a run.
pub fn draw(report: &Report) -> String {
    let servers = report.labels.len();
    let links: Vec<(usize, usize)> =
        (0..servers).flat_map(|a| (a + 1..servers).map(move |b| (a, b))).collect();
    let links_top = TOP + float(servers) * ROW + GAP;
    let curves_top = links_top + float(links.len()) * ROW + 2.0 * GAP;
    let bottom = curves_top + CURVES;
    let height = bottom + 75.0;
    let limit = report.quiet_from + CONVERGED_WITHIN;
    let end = report.verdict.converged().map_or(limit, |after| report.quiet_from + after);
    let end = end.max(limit).as_secs_f64() * 1.01;
    let at = |time: Duration| LEFT + (WIDTH - LEFT - RIGHT) * time.as_secs_f64().min(end) / end;

    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' \
         font-family='sans-serif' font-size='12'><rect width='100%' height='100%' fill='white'/>\n"
    );
    let quiet = at(report.quiet_from);
    let _ = writeln!(
        svg,
        "<rect x='{quiet:.1}' y='{top}' width='{:.1}' height='{:.1}' fill='{QUIET}'/>",
        WIDTH - RIGHT - quiet,
        bottom - TOP + 4.0,
        top = TOP - 4.0
    );
    heading(&mut svg, report);
    text(&mut svg, 10.0, TOP - 8.0, "start", "<tspan font-weight='bold'>Servers</tspan>");
    for (row, label) in report.labels.iter().enumerate() {
        let y = TOP + float(row) * ROW;
        row_of(&mut svg, y, label, report, &at, |fault| on_server(fault) == Some(row));
    }
    text(&mut svg, 10.0, links_top - 8.0, "start", "<tspan font-weight='bold'>Links between them</tspan>");
    for (number, (a, b)) in links.iter().enumerate() {
        let label = format!("{} \u{2013} {}", report.labels[*a], report.labels[*b]).replace("server ", "");
        let y = links_top + float(number) * ROW;
        row_of(&mut svg, y, &label, report, &at, |fault| on_link(fault) == Some((*a, *b)));
    }
    let caption = "<tspan font-weight='bold'>Messages behind</tspan>: acknowledged by some server, and not shown \
                   yet to the client that reads at this one";
    text(&mut svg, 10.0, curves_top - 12.0, "start", caption);
    curves(&mut svg, report, curves_top, end, &at);
    marks(&mut svg, report, bottom, &at);
    svg + "</svg>\n"
}

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, said: &str) {
    let _ = writeln!(svg, "<text x='{x:.1}' y='{y:.1}' text-anchor='{anchor}'>{said}</text>");
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: &str) {
    let _ = writeln!(svg, "<line x1='{x1:.1}' y1='{y1:.1}' x2='{x2:.1}' y2='{y2:.1}' stroke='{stroke}'/>");
}

/// What is seen, in words, and what the colours mean.
fn heading(svg: &mut String, report: &Report) {
    let servers = report.labels.len();
    let outcome = report.failure_in_short().map_or_else(
        || {
            let after = report.verdict.converged().unwrap_or_default();
            format!("all {servers} agreed {:.1} s after the last fault", after.as_secs_f64())
        },
        |failure| format!("FAILED: {failure}"),
    );
    let [messages, items] = [&report.promised.messages, &report.promised.items]
        .map(|written| written.iter().map(Vec::len).sum::<usize>());
    let title = format!(
        "<tspan font-size='15' font-weight='bold'>{servers} servers, {} s of faults (seed {}): {outcome}</tspan>",
        report.settings.seconds, report.settings.seed
    );
    text(svg, 10.0, 24.0, "start", &title);
    let what = format!(
        "A client at each server wrote to one room all the time: {messages} messages and {items} item changes were \
         acknowledged, and each has to be on every server that keeps such. Bars: what was broken, and when."
    );
    text(svg, 10.0, 46.0, "start", &what);
    for (number, (colour, name)) in FAULTS.iter().enumerate() {
        let x = LEFT + float(number) * 165.0;
        let _ = writeln!(svg, "<rect x='{x}' y='60' width='14' height='12' fill='{colour}'/>");
        text(svg, x + 20.0, 71.0, "start", name);
    }
}

fn colour(fault: Fault) -> &'static str {
    let index = match fault {
        Fault::Cut(_, _, Cut::Silent) => 0,
        Fault::Cut(_, _, Cut::Refused) => 1,
        Fault::Loss(..) => 2,
        Fault::Slow(_) => 3,
        Fault::Restart(_) => 4,
        Fault::Kill(_) => 5,
    };
    FAULTS[index].0
}

fn on_server(fault: Fault) -> Option<usize> {
    match fault {
        Fault::Slow(server) | Fault::Restart(server) | Fault::Kill(server) => Some(server),
        Fault::Cut(..) | Fault::Loss(..) => None,
    }
}

fn on_link(fault: Fault) -> Option<(usize, usize)> {
    match fault {
        Fault::Cut(a, b, _) | Fault::Loss(a, b, _) => Some((a, b)),
        _ => None,
    }
}

fn row_of(
    svg: &mut String,
    y: f64,
    label: &str,
    report: &Report,
    at: &impl Fn(Duration) -> f64,
    is_here: impl Fn(Fault) -> bool,
) {
    text(svg, LEFT - 10.0, y + 14.0, "end", label);
    line(svg, (LEFT, y + ROW), (WIDTH - RIGHT, y + ROW), "#dddddd");
    for Planned { fault, from, until } in report.happened.iter().filter(|one| is_here(one.fault)) {
        let (x, width) = (at(*from), (at(*until) - at(*from)).max(2.0));
        let (height, fill) = (ROW - 6.0, colour(*fault));
        let top = y + 3.0;
        let _ =
            writeln!(svg, "<rect x='{x:.1}' y='{top}' width='{width:.1}' height='{height}' fill='{fill}'/>");
    }
}

fn curves(svg: &mut String, report: &Report, top: f64, end: f64, at: &impl Fn(Duration) -> f64) {
    let behind = &report.promised.behind;
    let most = behind.iter().flat_map(|(_, behind)| behind.iter().copied()).max().unwrap_or(1);
    let most = float(most.max(1));
    let bottom = top + CURVES;
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        let y = bottom - CURVES * share;
        line(svg, (LEFT, y), (WIDTH - RIGHT, y), "#dddddd");
        text(svg, LEFT - 10.0, y + 4.0, "end", &format!("{:.0}", most * share));
    }
    for part in 0..=6 {
        let seconds = end * f64::from(part) / 6.0;
        text(svg, at(Duration::from_secs_f64(seconds)), bottom + 18.0, "middle", &format!("{seconds:.0} s"));
    }
    for (index, label) in report.labels.iter().enumerate() {
        let stroke = COLOURS[index % COLOURS.len()];
        let points: Vec<String> = behind
            .iter()
            .filter(|(time, _)| time.as_secs_f64() <= end)
            .map(|(time, behind)| {
                format!("{:.1},{:.1}", at(*time), bottom - CURVES * float(behind[index]) / most)
            })
            .collect();
        let points = points.join(" ");
        let _ =
            writeln!(svg, "<polyline points='{points}' fill='none' stroke='{stroke}' stroke-width='1.5'/>");
        let x = LEFT + float(index) * 140.0;
        line(svg, (x, bottom + 40.0), (x + 20.0, bottom + 40.0), stroke);
        text(svg, x + 26.0, bottom + 44.0, "start", label);
    }
}

/// When the faults ended, when all had to be as it should be, and when it was.
fn marks(svg: &mut String, report: &Report, bottom: f64, at: &impl Fn(Duration) -> f64) {
    let mut mark = |after: Duration, stroke: &str, (y, anchor): (f64, &str), said: &str| {
        let x = at(report.quiet_from + after);
        line(svg, (x, y + 4.0), (x, bottom), stroke);
        let x = if anchor == "start" { x + 5.0 } else { x - 5.0 };
        text(svg, x, y + 8.0, anchor, said);
    };
    mark(Duration::ZERO, "#222222", (TOP - 40.0, "end"), "all is mended, nobody writes any more");
    mark(CONVERGED_WITHIN, "#c8252c", (TOP - 40.0, "end"), "allowed: 60 s");
    if let Some(after) = report.verdict.ours_converged() {
        let said = format!("the Causeways agree: {:.1} s", after.as_secs_f64());
        mark(after, "#1b6ca8", (TOP - 26.0, "start"), &said);
    }
    if let Some(after) = report.verdict.converged() {
        let anchor = if after > CONVERGED_WITHIN { "end" } else { "start" };
        let said = format!("all agree: {:.1} s", after.as_secs_f64());
        mark(after, "#2a9d4a", (TOP - 13.0, anchor), &said);
    }
}
