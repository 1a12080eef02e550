//! Reports as one HTML file that opens from disk: no script, no request, nothing beside it.
//!
//! Invariants: all text goes through the template, which escapes it; a policy in the head forbids the page to
//! load anything at all; light or dark follows the reader's system; every plot has its figures in words below it.
#![forbid(unsafe_code)]

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::compare::{Comparison, Pairing, Verdict, compare, pairings};
use super::conclusion;
use super::figure::{FIGURES, Figure, Measured, Section};
use super::plan;
use super::plot::{DARK, LIGHT, Plot, css};
use super::plots::{self, STAMP, Source};
use super::quantity::clean;
use super::summary::ratio_text;
use crate::results::Run;

/// The report of one run.
pub fn page(run: &Run) -> String {
    let sources: Vec<Source<'_>> = Measured::all(run).into_iter().map(Source::new).collect();
    let name = clean(if run.name.is_empty() { &run.profile.name } else { &run.name });
    let body = html! {
        header {
            h1 { (name) }
            p.about { b { (clean(&run.profile.name)) } " · " (clean(&run.profile.about)) }
            @for line in plan::parameters(&run.profile) { p.quiet { (line) } }
            @if !run.profile.overrides.is_empty() {
                p.quiet { "Changed: " (clean(&run.profile.overrides.join(" "))) }
            }
        }
        (alarm(&sources))
        section {
            h2 { "Conclusion" }
            ul { @for sentence in conclusion::sentences(run) { li { (sentence) } } }
            @if !run.notes.is_empty() {
                h3 { "To know" }
                ul { @for note in &run.notes { li { (clean(note)) } } }
            }
        }
        @for pairing in pairings(run) { (pair_table(&pairing)) }
        (all_plots(&sources))
        section {
            h2 { "All figures" }
            p.quiet { "Behind each figure is its name in --fail-if." }
            @for source in &sources { (figures_table(source)) }
        }
        (machine(run))
    };
    document(&format!("{name}: load test"), &body)
}

/// The report of two runs held against each other.
pub fn comparison_page(before: &Run, after: &Run) -> String {
    let comparison = compare(before, after);
    let source = |run, side: &super::compare::Side, place: &str| {
        let label = if comparison.before.name == comparison.after.name {
            format!("{} ({place})", side.name)
        } else {
            side.name.clone()
        };
        Measured::main(run).map(|measured| Source { label, measured })
    };
    let sources: Vec<Source<'_>> =
        [source(before, &comparison.before, "first"), source(after, &comparison.after, "second")]
            .into_iter()
            .flatten()
            .collect();
    let title = format!("{} against {}", comparison.after.name, comparison.before.name);
    let body = html! {
        header {
            h1 { (title) }
            p.about { (clean(&after.profile.name)) " · " (clean(&after.profile.about)) }
            @for line in plan::parameters(&after.profile) { p.quiet { (line) } }
        }
        (alarm(&sources))
        section {
            h2 { "Figures" }
            p.quiet { "Medians with [smallest largest] where they differ. A difference is called one only when the two ranges are apart." }
            (comparison_table(&comparison))
            @if !comparison.cautions.is_empty() {
                h3 { "To know" }
                ul { @for caution in &comparison.cautions { li { (caution) } } }
            }
        }
        (all_plots(&sources))
        @for (run, name) in [(before, &comparison.before.name), (after, &comparison.after.name)] {
            section { h2 { (name) } (machine_table(run)) }
        }
    };
    document(&title, &body)
}

const READING: &str = "As felt counts from the time a message was planned for, so a stall of the server shows in every \
    message that had to wait for it; service only counts from the time it was really sent. Each plot draws a \
    repetition as a thin line and the median of the repetitions, point by point, as a thick one.";

fn document(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (title) }
                style { (PreEscaped(style())) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

fn alarm(sources: &[Source<'_>]) -> Markup {
    html! {
        @for source in sources {
            @if let Some((limited, reason)) = source.measured.limited() {
                p.alarm role="alert" {
                    b { (STAMP) } " " (source.label) ", " (limited) " of "
                    (plan::things(source.measured.repetitions.len() as u64, "repetition")) ": " (clean(reason))
                }
            }
        }
    }
}

fn all_plots(sources: &[Source<'_>]) -> Markup {
    let missing =
        "was not measured: the server ran on another machine, or the run was shorter than a second.";
    html! {
        section {
            h2 { "Latency" }
            p.quiet { (READING) }
            (figure(&plots::percentiles(sources)))
            (figure(&plots::latency_over_time(sources)))
            (figure(&plots::histogram(sources)))
            @if let Some(plot) = plots::alerts(sources) { (figure(&plot)) }
        }
        section {
            h2 { "Throughput and losses" }
            (figure(&plots::throughput(sources)))
            @match plots::losses(sources) {
                Some(plot) => (figure(&plot)),
                None => p { "No second of any repetition lost a delivery without notice. "
                    (plots::in_words(sources, &["lost", "gaps", "conflated", "filtered"])) },
            }
        }
        section {
            h2 { "Server" }
            @match plots::server_cpu(sources) {
                Some(plot) => (figure(&plot)),
                None => p { "CPU over time " (missing) },
            }
            @match plots::server_memory(sources) {
                Some(plot) => (figure(&plot)),
                None => p { "Memory over time " (missing) },
            }
        }
    }
}

fn figure(plot: &Plot) -> Markup {
    html! { figure { (plot.svg(false)) figcaption { (plot.about) } } }
}

fn pair_table(pairing: &Pairing<'_>) -> Markup {
    let (target, baseline) = (clean(pairing.target), clean(pairing.baseline));
    html! {
        section {
            h2 { (target) " against " (baseline) }
            div.wide { table {
                thead { tr { th { "figure" } th { (target) } th { (baseline) } th { "ratio" } } }
                tbody { @for row in &pairing.rows { tr {
                    th scope="row" { (row.figure.title) }
                    td { (row.of_target.write(row.figure.quantity)) }
                    td { (row.of_baseline.write(row.figure.quantity)) }
                    td { b {
                        @match &row.ratio {
                            Some(ratio) => (ratio_text(ratio)),
                            None => "–",
                        }
                    } }
                } } }
            } }
            p.quiet { "Ratios are of repetitions of the same number, which were measured one after the other." }
        }
    }
}

fn comparison_table(comparison: &Comparison) -> Markup {
    let column = |side: &super::compare::Side| {
        format!("{}, {}", side.name, plan::things(side.repetitions as u64, "repetition"))
    };
    html! {
        div.wide { table {
            thead { tr {
                th { "figure" } th { (column(&comparison.before)) } th { (column(&comparison.after)) }
                th { "ratio" } th { "verdict" }
            } }
            tbody { @for row in &comparison.rows { tr {
                th scope="row" { (row.figure.title) }
                td { (row.before.write(row.figure.quantity)) }
                td { (row.after.write(row.figure.quantity)) }
                td { @match row.ratio { Some(ratio) => (format!("{ratio:.2}")), None => "–" } }
                td class=(match row.verdict { Verdict::Better => "good", Verdict::Worse => "bad", _ => "quiet" }) {
                    (row.words())
                }
            } } }
        } }
    }
}

/// Every figure the target has: median, range, and each repetition.
fn figures_table(source: &Source<'_>) -> Markup {
    let measured = &source.measured;
    // Beyond these the range says what a row of values would.
    let shown = measured.repetitions.len().min(9);
    let known = |section: Section| -> Vec<&Figure> {
        FIGURES
            .iter()
            .filter(|figure| figure.section == section && figure.spread(measured).is_some())
            .collect()
    };
    html! {
        h3 { (source.label) }
        div.wide { table {
            thead { tr {
                th { "figure" } th { "median" } th { "min" } th { "max" }
                @if shown > 1 { @for repetition in &measured.repetitions[..shown] { th.quiet { "#" (repetition.number) } } }
            } }
            @for section in Section::ALL {
                @let figures = known(section);
                @if !figures.is_empty() { tbody {
                    tr { th.group colspan=(4 + if shown > 1 { shown } else { 0 }) scope="rowgroup" { (section.title()) } }
                    @for figure in figures { tr {
                        th scope="row" { (figure.title) " " code { (figure.name) } }
                        @if let Some(spread) = figure.spread(measured) {
                            td { b { (figure.write(spread.median)) } }
                            td { (figure.write(spread.min)) }
                            td { (figure.write(spread.max)) }
                        }
                        @if shown > 1 { @for repetition in &measured.repetitions[..shown] {
                            td.quiet { (figure.of(repetition).map_or_else(|| "–".into(), |value| figure.write(value))) }
                        } }
                    } }
                } }
            }
        } }
        @if measured.repetitions.iter().any(|r| r.by_format.len() > 1) { (formats_table(measured)) }
    }
}

fn formats_table(measured: &Measured<'_>) -> Markup {
    use super::quantity::Quantity::{Bytes, Time};
    html! {
        div.wide { table {
            thead { tr {
                th { "by format" } th { "repetition" } th { "deliveries" } th { "bytes each" } th { "p50 as felt" } th { "p99 as felt" }
            } }
            tbody { @for repetition in &measured.repetitions { @for format in &repetition.by_format { tr {
                th scope="row" { (clean(&format.format)) }
                td { (repetition.number) }
                td { (plan::count(format.delivered)) }
                td { (Bytes.write(format.bytes_per_delivery)) }
                @match &format.as_felt {
                    Some(latency) => { td { (Time.write(latency.p50_ns as f64)) } td { (Time.write(latency.p99_ns as f64)) } }
                    None => { td { "–" } td { "–" } }
                }
            } } } }
        } }
    }
}

fn machine(run: &Run) -> Markup {
    html! { section { h2 { "Machine and command" } (machine_table(run)) } }
}

fn machine_table(run: &Run) -> Markup {
    html! {
        pre { (plan::command(run)) }
        div.wide { table.facts { tbody {
            @for (name, value) in plan::facts(run) { tr { th scope="row" { (name) } td { (value) } } }
        } } }
    }
}

fn style() -> String {
    format!(
        ":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}\
         body{{margin:0;background:var(--ground);color:var(--text);font:15px/1.5 system-ui,sans-serif}}\
         main{{max-width:1020px;margin:0 auto;padding:24px 20px 60px}}\
         h1{{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}}h2{{font-size:19px;margin:36px 0 8px}}\
         h3{{font-size:15px;margin:20px 0 6px}}p{{margin:4px 0}}.quiet,figcaption{{color:var(--quiet)}}\
         figure{{margin:14px 0 22px}}figcaption{{font-size:13px}}.plot{{display:block;width:100%;height:auto}}\
         .alarm{{margin:14px 0;padding:10px 14px;border:2px solid var(--alarm);border-radius:6px;color:var(--alarm)}}\
         .wide{{overflow-x:auto}}table{{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}}\
         th,td{{padding:3px 12px 3px 0;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap;font-weight:400}}\
         th:first-child,.facts td{{text-align:left}}thead th{{color:var(--quiet);border-bottom-color:var(--quiet)}}\
         .facts td{{white-space:normal}}th.group{{padding-top:12px;font-weight:600}}b{{font-weight:600}}\
         .good{{color:var(--good);font-weight:600}}.bad{{color:var(--alarm);font-weight:600}}\
         code{{margin-left:6px;font-size:11px;color:var(--quiet)}}\
         pre{{background:var(--panel);padding:10px 12px;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere}}\
         @media print{{figure,tr{{break-inside:avoid}}}}{plots}",
        light = LIGHT.variables(),
        dark = DARK.variables(),
        plots = css(|role| format!("var(--{role})")),
    )
}

#[cfg(test)]
mod tests {
    use resvg::usvg::roxmltree;

    use super::super::sample;
    use super::*;

    /// The plots of a page, each checked to be XML.
    fn plots_of(page: &str) -> usize {
        let each: Vec<&str> =
            page.split("<svg ").skip(1).map(|rest| rest.split_once("</svg>").unwrap().0).collect();
        for plot in &each {
            let svg = format!("<svg {plot}</svg>");
            roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{error} in {svg}"));
        }
        each.len()
    }

    #[test]
    fn a_report_has_facts_plots_figures_and_a_conclusion() {
        let page = page(&sample::run());
        assert_eq!(plots_of(&page), 6);
        for part in [
            "Example CPU 9000",
            "6.18.5",
            "performance",
            "65,536",
            "0123abc",
            "Conclusion",
            "99 in 100",
            "Latency by percentile",
            "Latency over time",
            "Deliveries a second",
            "CPU of the server",
            "Memory of the server",
            "Histogram of latencies",
            "No second of any repetition lost",
            "#3",
            "The soft limit of descriptors",
            "prefers-color-scheme:dark",
            "CPU per delivery",
            "458 ns",
            "d1-snake",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        assert!(!page.contains(STAMP));
    }

    #[test]
    fn alerts_have_a_plot_and_figures_of_their_own() {
        let page = page(&sample::alerts());
        assert_eq!(plots_of(&page), 7);
        for part in ["Alerts: latency by percentile", "alert_p99", "unaccounted", "half of the alerts"] {
            assert!(page.contains(part), "{part} is missing");
        }
        assert_eq!(plots_of(&comparison_page(&sample::alerts(), &sample::run())), 7);
    }

    #[test]
    fn text_from_a_run_is_escaped() {
        let mut run = sample::run();
        let hostile = "<script>alert(1)</script>\"'&";
        run.name = hostile.into();
        run.command = vec![hostile.into()];
        run.notes = vec![hostile.into()];
        run.machine.cpu_model = hostile.into();
        run.profile.about = hostile.into();
        for repetition in &mut run.repetitions {
            repetition.target = hostile.into();
            repetition.generator.generator_limited = true;
            repetition.generator.reason = hostile.into();
        }
        for page in [page(&run), comparison_page(&run, &run)] {
            assert!(!page.contains("<script"));
            assert!(page.contains("&lt;script&gt;"));
            plots_of(&page);
        }
    }

    #[test]
    fn a_page_asks_for_nothing_outside_itself() {
        for page in [page(&sample::pair()), comparison_page(&sample::run(), &sample::limited())] {
            assert!(page.contains("default-src 'none'"));
            let outside = page.replace("http://www.w3.org/2000/svg", "");
            for way in ["http:", "https:", " src=", " href=", "url(", "@import"] {
                assert!(!outside.contains(way), "{way}");
            }
        }
    }

    #[test]
    fn a_limited_generator_is_stamped_on_every_plot() {
        let page = page(&sample::limited());
        let stamped =
            page.split("<svg ").skip(1).filter(|rest| rest.split("</svg>").next().unwrap().contains(STAMP));
        assert_eq!(stamped.count(), plots_of(&page));
        assert!(page.contains("role=\"alert\""));
    }

    #[test]
    fn a_pair_has_its_table_of_ratios() {
        let page = page(&sample::pair());
        assert!(page.contains("tickcast against ceiling-coalesced") && page.contains("<b>1.25"));
    }

    #[test]
    fn a_comparison_overlays_both_runs() {
        let mut after = sample::run();
        after.name = "after".into();
        let page = comparison_page(&sample::run(), &after);
        assert!(page.contains("after, as felt") && page.contains("within the noise"));
        assert_eq!(plots_of(&page), 6);
    }

    #[test]
    fn an_empty_run_still_makes_a_page() {
        assert_eq!(plots_of(&page(&Run::default())), 4);
        plots_of(&comparison_page(&Run::default(), &sample::run()));
    }
}
