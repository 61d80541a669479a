//! Bars as SVG: one panel a figure, one bar a contender, ours in another colour.

use super::Mode;
use super::contenders::is_ours;
use super::figures::{Field, charted};
use super::summary::Summary;
use std::fmt::Write;

const PANEL: usize = 300;
const LABELS: usize = 190;
const BAR: usize = 16;
const STEP: usize = 24;
const TOP: usize = 64;
const NUMBER: usize = 84;

/// The chart of one bench.
pub(super) fn draw(summary: &Summary, mode: Mode) -> String {
    let names: Vec<&str> = summary.measured().map(|(name, _)| name).collect();
    let fields: Vec<&Field> = charted(mode).collect();
    let (width, height) = (LABELS + fields.len() * PANEL, TOP + names.len() * STEP + 12);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        summary.title()
    );
    for (row, name) in names.iter().enumerate() {
        let y = TOP + row * STEP + BAR - 4;
        text(&mut svg, LABELS - 10, y, "end", name);
    }
    for (panel, field) in fields.iter().enumerate() {
        let x = LABELS + panel * PANEL;
        text(&mut svg, x, TOP - 14, "start", field.title);
        let medians = summary.medians(field);
        let most = medians.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        for (name, value) in medians {
            let Some(row) = names.iter().position(|own| *own == name) else {
                continue;
            };
            let share = if most > 0.0 { value / most } else { 0.0 };
            let length = share * (PANEL - NUMBER) as f64;
            let fill = if is_ours(name) { "#1b7f5c" } else { "#9aa5b1" };
            let y = TOP + row * STEP;
            // Writing to a string does not fail.
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>"
            );
            let end = x + length as usize + 6;
            text(&mut svg, end, y + BAR - 4, "start", &field.shown(value));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, x: usize, y: usize, anchor: &str, words: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::summary;
    use super::*;

    #[test]
    fn the_longest_bar_fills_its_panel_and_the_others_are_in_proportion() {
        let svg = draw(&summary(), Mode::Produce);
        let full = format!("width=\"{}.0\"", PANEL - NUMBER);
        let half = format!("width=\"{}.0\"", (PANEL - NUMBER) / 2);
        // CPU and memory are equal; of records/s, ours is half.
        assert_eq!(svg.matches(&full).count(), 5, "{svg}");
        assert_eq!(svg.matches(&half).count(), 1, "{svg}");
        assert!(svg.contains(">franz-go<") && !svg.contains(">librdkafka<"));
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
