//! The run as a picture: what was broken when, and how far behind each server's reader was.

use std::{fmt::Write as _, time::Duration};

use super::{
    plan::{Fault, Planned},
    report::Report,
};
use crate::link::Cut;

const WIDTH: f64 = 1_200.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 70.0;
const ROW: f64 = 22.0;
const CURVES: f64 = 220.0;
/// Of the servers' curves.
const COLOURS: [&str; 5] = ["#1b6ca8", "#2a9d4a", "#8a4fbf", "#d1495b", "#8d6e00"];
/// Of the faults, with their names for the legend.
const FAULTS: [(&str, &str); 6] = [
    ("#222222", "cut: packets vanish"),
    ("#777777", "cut: refused"),
    ("#e9a23b", "loss"),
    ("#9cc3e6", "slow line"),
    ("#5fae8b", "restart"),
    ("#c8252c", "kill -9"),
];

/// An SVG of a run.
pub fn draw(report: &Report) -> String {
    let servers = report.labels.len();
    let links: Vec<(usize, usize)> =
        (0..servers).flat_map(|a| (a + 1..servers).map(move |b| (a, b))).collect();
    let rows = float(servers + links.len());
    let curves_top = TOP + rows * ROW + 30.0;
    let height = curves_top + CURVES + 70.0;
    let end = report.quiet_from + report.converged().unwrap_or(Duration::from_mins(1));
    let end = end.max(report.quiet_from + Duration::from_secs(10)).as_secs_f64();
    let at = |time: Duration| LEFT + (WIDTH - LEFT - RIGHT) * time.as_secs_f64().min(end) / end;

    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' \
         font-family='sans-serif' font-size='12'><rect width='100%' height='100%' fill='white'/>\n"
    );
    legend(&mut svg);
    for (row, label) in report.labels.iter().enumerate() {
        row_of(&mut svg, row, label, report, &at, |fault| on_server(fault) == Some(row));
    }
    for (number, (a, b)) in links.iter().enumerate() {
        let label = format!("{} \u{2013} {}", report.labels[*a], report.labels[*b]).replace("server ", "");
        row_of(&mut svg, servers + number, &label, report, &at, |fault| on_link(fault) == Some((*a, *b)));
    }
    curves(&mut svg, report, curves_top, end, &at);
    marks(&mut svg, report, curves_top, &at);
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

fn legend(svg: &mut String) {
    text(
        svg,
        LEFT,
        22.0,
        "start",
        "What was broken when, and how many acknowledged messages each server's reader had not been shown",
    );
    for (number, (colour, name)) in FAULTS.iter().enumerate() {
        let x = LEFT + float(number) * 165.0;
        let _ = writeln!(svg, "<rect x='{x}' y='36' width='14' height='12' fill='{colour}'/>");
        text(svg, x + 20.0, 47.0, "start", name);
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
    row: usize,
    label: &str,
    report: &Report,
    at: &impl Fn(Duration) -> f64,
    is_here: impl Fn(Fault) -> bool,
) {
    let y = TOP + float(row) * ROW;
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
        let x = LEFT + float(index) * 120.0;
        line(svg, (x, bottom + 40.0), (x + 20.0, bottom + 40.0), stroke);
        text(svg, x + 26.0, bottom + 44.0, "start", label);
    }
}

/// When the faults ended, and when all was as it should be.
fn marks(svg: &mut String, report: &Report, curves_top: f64, at: &impl Fn(Duration) -> f64) {
    let bottom = curves_top + CURVES;
    let quiet = at(report.quiet_from);
    line(svg, (quiet, TOP - 4.0), (quiet, bottom), "#1b6ca8");
    text(svg, quiet - 4.0, TOP - 8.0, "end", "all mended, nobody writes");
    if let Some(after) = report.converged() {
        let x = at(report.quiet_from + after);
        line(svg, (x, TOP - 4.0), (x, bottom), "#2a9d4a");
        text(svg, x, bottom + 58.0, "end", &format!("all agree after {:.1} s", after.as_secs_f64()));
    }
}
