//! What was measured.

use std::path::Path;

use causeway_tests::result::{Doing, Result};
use serde::Serialize;

/// Who is measured unless said otherwise.
const OURS: &str = "causeway";

/// One number.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    peer: &'static str,
    /// What the project promises, as text for the table.
    #[serde(skip)]
    wanted: &'static str,
}

/// All numbers in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// Adds a number; `wanted` is what is promised, or empty.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str, wanted: &'static str) {
        self.push(Figure { name: name.into(), value, unit, peer: OURS, wanted });
    }

    /// Adds a number of one of several servers that are compared.
    pub fn compare(&mut self, peer: &'static str, name: &str, value: f64, unit: &'static str) {
        self.push(Figure { name: name.to_owned(), value, unit, peer, wanted: "" });
    }

    fn push(&mut self, figure: Figure) {
        eprintln!("  {}: {:.2} {} ({})", figure.name, figure.value, figure.unit, figure.peer);
        self.0.push(figure);
    }

    /// The table.
    pub fn print(&self) {
        let width = self.0.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
        println!("{:<width$}  {:>12}  {:<12}  {:<8}  wanted", "figure", "value", "unit", "server");
        for Figure { name, value, unit, peer, wanted } in &self.0 {
            println!("{name:<width$}  {value:>12.2}  {unit:<12}  {peer:<8}  {wanted}");
        }
    }

    /// The list, as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(&self.0)?).doing(path.display())?;
        println!("written to {}", path.display());
        Ok(())
    }
}

/// The value below which `part` (0.0 to 1.0) of `values` lie.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the length"
    )]
    let at = ((values.len().saturating_sub(1)) as f64 * part).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench are small")]
pub fn number(count: usize) -> f64 {
    count as f64
}
