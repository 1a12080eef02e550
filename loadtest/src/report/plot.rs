//! A line plot as SVG: axes, ticks, legend, lines, and a stamp when the figures are not to be trusted.
//!
//! Invariants: the SVG is well-formed XML and needs nothing from outside; every series has a name and a dash
//! pattern beside its colour, and the plot a title and a description in words, so that no meaning hangs on
//! colour or sight alone; values that cannot be drawn (not finite, or not positive on a log axis) break the line.
//! Colours come from classes: the page sets them for light and dark, a plot that stands alone brings its own.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};

use super::quantity::{Quantity, digits};

/// Width of every plot in SVG units, which are pixels at scale one.
pub(super) const WIDTH: f64 = 760.0;
/// Height of every plot.
pub(super) const HEIGHT: f64 = 400.0;
/// Distinct colours; series beyond that share them.
pub(super) const COLOURS: usize = 6;

/// Most points of a line; of more, each stretch keeps its smallest and largest.
const POINTS_MAX: usize = 1_200;
/// Mean width of a character at the size of labels. Estimated on the wide side, as the font is not known.
const CHARACTER: f64 = 6.7;
/// Leaves room for half of the widest percentile.
const RIGHT: f64 = WIDTH - 36.0;
const BOTTOM: f64 = HEIGHT - 48.0;

/// A position in data.
pub(super) type Point = (f64, f64);

/// Everything that is drawn.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    /// Unique in a page.
    pub(super) id: &'static str,
    pub(super) title: String,
    /// What a reader who cannot see the lines should know.
    pub(super) about: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// Written across the plot.
    pub(super) stamp: Option<String>,
}

/// One direction.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) scale: Scale,
    pub(super) quantity: Quantity,
}

/// How values are laid out along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From zero, in equal steps, to a round value.
    Linear,
    /// From zero, in equal steps, to the largest value.
    Exact,
    /// In equal ratios.
    Log,
    /// Equal ratios where values span more than a factor of 20, equal steps where they do not.
    Fit,
    /// Of percentiles: the value is how many nines there are, so 2 is 99 %.
    Nines,
}

/// Lines of one meaning: each repetition thin, their median thick.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// Below [`COLOURS`].
    pub(super) colour: usize,
    pub(super) dashed: bool,
    /// Whether the area below the thick line is shaded.
    pub(super) filled: bool,
    pub(super) thin: Vec<Vec<Point>>,
    pub(super) thick: Vec<Point>,
}

/// An axis with its range settled: from data to SVG units.
struct Ruler {
    log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    ticks: Vec<(f64, String)>,
}

impl Plot {
    /// The SVG, with its own colours and ground when it is to stand `alone`.
    pub(super) fn svg(&self, alone: bool) -> Markup {
        let (title_id, about_id) = (format!("{}-title", self.id), format!("{}-about", self.id));
        let legend = self.legend();
        let top = legend.last().map_or(40.0, |(_, y, _)| y + 38.0);
        let drawable = |scale: Scale, value: f64| value.is_finite() && (scale != Scale::Log || value > 0.0);
        let points: Vec<Point> = self
            .series
            .iter()
            .flat_map(|series| series.thin.iter().chain([&series.thick]))
            .flatten()
            .copied()
            .filter(|(x, y)| drawable(self.x.scale, *x) && drawable(self.y.scale, *y))
            .collect();
        let y = Ruler::over(&self.y, points.iter().map(|point| point.1), BOTTOM, top);
        let widest = y.ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0);
        let left = (widest as f64).mul_add(CHARACTER, 22.0);
        let x = Ruler::over(&self.x, points.iter().map(|point| point.0), left, RIGHT);
        let middle = f64::midpoint(left, RIGHT);

        html! {
            svg.plot xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {HEIGHT}"))
                width=(WIDTH) height=(HEIGHT) role="img" aria-labelledby=(format!("{title_id} {about_id}")) {
                title id=(title_id) { (self.title) }
                desc id=(about_id) { (self.about) }
                @if alone {
                    style { (PreEscaped(css(|role| LIGHT.of(role).into()))) }
                    rect.ground width=(WIDTH) height=(HEIGHT) {}
                }
                text.name x="14" y="24" { (self.title) }
                @for (at, legend_y, series) in &legend {
                    g {
                        path class=(classes(series, "thick")) d=(format!("M{at:.1} {legend_y:.1}h24")) {}
                        text x=(format!("{:.1}", at + 30.0)) y=(format!("{:.1}", legend_y + 4.0)) { (series.name) }
                    }
                }
                text.unit x="14" y=(format!("{:.1}", top - 12.0)) {
                    (self.y.label) @if y.log { " (log scale)" }
                }
                @if points.is_empty() {
                    text.none x=(middle) y=(f64::midpoint(top, BOTTOM)) { "Nothing was measured." }
                } @else {
                    @for (value, label) in &y.ticks {
                        @let at = format!("{:.1}", y.place(*value));
                        path.grid d=(format!("M{left:.1} {at}H{RIGHT:.1}")) {}
                        text.low x=(format!("{:.1}", left - 7.0)) y=(format!("{:.1}", y.place(*value) + 4.0)) { (label) }
                    }
                    @for (value, label) in &x.ticks {
                        @let at = format!("{:.1}", x.place(*value));
                        path.grid d=(format!("M{at} {top:.1}V{:.1}", BOTTOM + 4.0)) {}
                        text.mid x=(at) y=(format!("{:.1}", BOTTOM + 18.0)) { (label) }
                    }
                    path.axis d=(format!("M{left:.1} {top:.1}V{BOTTOM:.1}H{RIGHT:.1}")) {}
                    text.mid x=(middle) y=(format!("{:.1}", HEIGHT - 9.0)) {
                        (self.x.label) @if x.log { " (log scale)" }
                    }
                    @for series in &self.series {
                        @if series.filled {
                            path class=(format!("f{}", series.colour % COLOURS)) d=(area(&series.thick, &x, &y)) {}
                        }
                        @for line in &series.thin {
                            path class=(classes(series, "thin")) d=(path(line, &x, &y)) {}
                        }
                    }
                    @for series in &self.series {
                        path class=(classes(series, "thick")) d=(path(&series.thick, &x, &y)) {}
                    }
                }
                @if let Some(stamp) = &self.stamp {
                    @let (cx, cy) = (middle, f64::midpoint(top, BOTTOM));
                    text.stamp x=(cx) y=(cy) transform=(format!("rotate(-12 {cx} {cy})")) { (stamp) }
                }
            }
        }
    }

    /// Where each series is named: left edge, height, series. Rows are filled from the left.
    fn legend(&self) -> Vec<(f64, f64, &Series)> {
        let (mut at, mut height) = (14.0, 46.0);
        let mut placed = Vec::new();
        for series in &self.series {
            let width = (series.name.chars().count() as f64).mul_add(CHARACTER, 30.0);
            if at > 14.0 && at + width > RIGHT {
                (at, height) = (14.0, height + 18.0);
            }
            placed.push((at, height, series));
            at += width + 18.0;
        }
        placed
    }
}

impl Ruler {
    /// `from` and `to` are where the lowest and highest value stand.
    fn over(axis: &Axis, values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let largest = values.clone().fold(0.0, f64::max);
        let smallest = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min).min(largest);
        let log = match axis.scale {
            Scale::Log => true,
            Scale::Fit => smallest > 0.0 && largest / smallest > 20.0,
            Scale::Linear | Scale::Exact | Scale::Nines => false,
        };
        let (low, high, ticks) = if largest <= 0.0 {
            (0.0, 1.0, vec![(0.0, "0".to_owned())])
        } else if axis.scale == Scale::Nines {
            nines(largest)
        } else if log {
            ratios(axis.quantity, smallest, largest)
        } else {
            steps(axis.quantity, largest, axis.scale == Scale::Exact)
        };
        // Nothing but zeros has no ratios.
        Self { log: log && low > 0.0, low, high, from, to, ticks }
    }

    fn place(&self, value: f64) -> f64 {
        let share = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        (self.to - self.from).mul_add(share.clamp(0.0, 1.0), self.from)
    }

    fn draws(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }
}

type Range = (f64, f64, Vec<(f64, String)>);

/// Percentiles up to `largest` nines.
fn nines(largest: f64) -> Range {
    let mut ticks = vec![(0.0, "0".to_owned()), (2.0_f64.log10(), "50 %".to_owned())];
    let mut whole = 1;
    while f64::from(whole) <= largest && whole <= 12 {
        let label = match whole {
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            _ => format!("99.{} %", "9".repeat(whole as usize - 2)),
        };
        ticks.push((f64::from(whole), label));
        whole += 1;
    }
    (0.0, largest, ticks)
}

/// A range of equal ratios that ends on round values.
fn ratios(quantity: Quantity, smallest: f64, largest: f64) -> Range {
    let round = |value: f64, up: bool| {
        let decade = 10_f64.powf(value.log10().floor());
        let mut marks = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade).into_iter();
        // A hair of tolerance, so that a value on a mark stays on it.
        let mark = if up {
            marks.find(|mark| *mark >= value * 0.999_999)
        } else {
            marks.rfind(|mark| *mark <= value * 1.000_001)
        };
        mark.unwrap_or(value)
    };
    let (low, high) = (round(smallest, false), round(largest, true));
    let high = if high > low { high } else { low * 10.0 };
    let decades = (high / low).log10();
    let marks: &[f64] = if decades <= 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    // Over many decades only every other is named.
    let stride = (decades / 9.0).ceil().max(1.0) as i32;
    let mut ticks = Vec::new();
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    for decade in (first..=last).step_by(stride as usize) {
        for mark in marks {
            let value = mark * 10_f64.powi(decade);
            if value >= low * 0.999_999 && value <= high * 1.000_001 {
                ticks.push((value, tick(quantity, value)));
            }
        }
    }
    (low, high, ticks)
}

/// A range of equal steps from zero.
fn steps(quantity: Quantity, largest: f64, exact: bool) -> Range {
    // Round in the unit that is written, which for sizes is no power of ten.
    let unit = match quantity {
        Quantity::Bytes => 1024_f64.powf((largest.log2() / 10.0).floor().clamp(0.0, 4.0)),
        Quantity::Share => 0.01,
        _ => 1.0,
    };
    // A height gets some room above it, so that no line runs along the frame.
    let top = if exact { largest } else { largest * 1.02 };
    let raw = top / unit / 5.0;
    let decade = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|step| step * decade)
        .into_iter()
        .find(|step| *step >= raw * 0.999_999)
        .unwrap_or(raw);
    let count = top / unit / step;
    let count = if exact { count.floor() } else { count.ceil() };
    let high = if exact { largest } else { count * step * unit };
    let ticks = (0..=count as u32)
        .map(|at| {
            let value = f64::from(at) * step * unit;
            (value, tick(quantity, value))
        })
        .collect();
    (0.0, high, ticks)
}

/// A tick's label: no zeros behind the point, and no unit on zero.
fn tick(quantity: Quantity, value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let written = if quantity == Quantity::Plain { digits(value) } else { quantity.write(value) };
    let (number, unit) =
        written.split_once(' ').map_or((written.as_str(), ""), |(number, unit)| (number, unit));
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    if unit.is_empty() { number.to_owned() } else { format!("{number} {unit}") }
}

fn classes(series: &Series, weight: &str) -> String {
    let dash = if series.dashed { " dash" } else { "" };
    format!("line {weight} c{}{dash}", series.colour % COLOURS)
}

fn path(points: &[Point], x: &Ruler, y: &Ruler) -> String {
    let mut path = String::new();
    let mut pen_down = false;
    for (at, value) in thinned(points) {
        if !x.draws(at) || !y.draws(value) {
            pen_down = false;
            continue;
        }
        let (at, value) = (x.place(at), y.place(value));
        // Writing to a string cannot fail. A point without neighbours would not be drawn but for its dot.
        let _ = if pen_down {
            write!(path, "L{at:.1} {value:.1}")
        } else {
            write!(path, "M{at:.1} {value:.1}h0.1")
        };
        pen_down = true;
    }
    if path.is_empty() { "M0 0".into() } else { path }
}

fn area(points: &[Point], x: &Ruler, y: &Ruler) -> String {
    let line = path(points, x, y);
    match (points.first(), points.last()) {
        (Some(first), Some(last)) if x.draws(first.0) && x.draws(last.0) => {
            format!("{line}L{:.1} {BOTTOM:.1}L{:.1} {BOTTOM:.1}Z", x.place(last.0), x.place(first.0))
        }
        _ => line,
    }
}

/// At most [`POINTS_MAX`] points, with every peak and every dip still there.
fn thinned(points: &[Point]) -> Vec<Point> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(POINTS_MAX / 2);
    points
        .chunks(stretch)
        .flat_map(|chunk| {
            let of = |better: fn(f64, f64) -> bool| {
                (0..chunk.len()).reduce(|best, at| if better(chunk[at].1, chunk[best].1) { at } else { best })
            };
            let (low, high) = (of(|a, b| a < b).unwrap_or(0), of(|a, b| a > b).unwrap_or(0));
            [chunk[low.min(high)], chunk[low.max(high)]]
        })
        .collect()
}

/// Colours by role.
pub(super) struct Palette {
    pub(super) ground: &'static str,
    pub(super) text: &'static str,
    pub(super) quiet: &'static str,
    pub(super) grid: &'static str,
    pub(super) panel: &'static str,
    pub(super) alarm: &'static str,
    pub(super) good: &'static str,
    pub(super) series: [&'static str; COLOURS],
}

/// Told apart also by those who see red and green as one.
pub(super) const LIGHT: Palette = Palette {
    ground: "#ffffff",
    text: "#1c2128",
    quiet: "#57606a",
    grid: "#dfe3e8",
    panel: "#f5f7f9",
    alarm: "#b42318",
    good: "#0b6b43",
    series: ["#0067b1", "#c4500a", "#007a5a", "#a2478a", "#6b5b00", "#3f4a9a"],
};

/// The same roles on a dark ground.
pub(super) const DARK: Palette = Palette {
    ground: "#14181d",
    text: "#e4e8ec",
    quiet: "#9aa5b1",
    grid: "#2d343c",
    panel: "#1c2229",
    alarm: "#ff8a7a",
    good: "#63d3a1",
    series: ["#5eb3f5", "#ff9a5a", "#4fd1a5", "#e79bd0", "#d9c55a", "#a5b0ff"],
};

impl Palette {
    /// The colour of a role: `text`, `grid`, ..., or `c0` and on.
    pub(super) fn of(&self, role: &str) -> &'static str {
        match role {
            "ground" => self.ground,
            "text" => self.text,
            "quiet" => self.quiet,
            "grid" => self.grid,
            "panel" => self.panel,
            "alarm" => self.alarm,
            "good" => self.good,
            _ => role
                .strip_prefix('c')
                .and_then(|at| at.parse::<usize>().ok())
                .map_or(self.text, |at| self.series[at % COLOURS]),
        }
    }

    /// Every role as a CSS variable.
    pub(super) fn variables(&self) -> String {
        let fixed = ["ground", "text", "quiet", "grid", "panel", "alarm", "good"].map(String::from);
        let series = (0..COLOURS).map(|at| format!("c{at}"));
        fixed.into_iter().chain(series).map(|role| format!("--{role}:{};", self.of(&role))).collect()
    }
}

/// The rules of the plots' classes, with `colour` saying what stands for a role.
pub(super) fn css(colour: impl Fn(&str) -> String) -> String {
    let mut css = format!(
        ".plot{{font-family:system-ui,sans-serif;font-size:12px}}.plot text{{fill:{text}}}\
         .plot .ground{{fill:{ground}}}.plot .name{{font-size:15px;font-weight:600}}\
         .plot .unit{{fill:{quiet}}}.plot .low{{text-anchor:end;fill:{quiet}}}\
         .plot .mid{{text-anchor:middle;fill:{quiet}}}.plot .none{{text-anchor:middle;font-size:15px;fill:{quiet}}}\
         .plot .grid{{stroke:{grid};fill:none}}.plot .axis{{stroke:{quiet};fill:none}}\
         .plot .line{{fill:none;stroke-linejoin:round;stroke-linecap:round}}.plot .thin{{stroke-width:1;opacity:0.4}}\
         .plot .thick{{stroke-width:2.4}}.plot .dash{{stroke-dasharray:7 4}}\
         .plot .stamp{{text-anchor:middle;font-size:44px;font-weight:700;opacity:0.45;fill:{alarm}}}",
        text = colour("text"),
        ground = colour("ground"),
        quiet = colour("quiet"),
        grid = colour("grid"),
        alarm = colour("alarm"),
    );
    for at in 0..COLOURS {
        let of = colour(&format!("c{at}"));
        let _ = write!(css, ".plot .c{at}{{stroke:{of}}}.plot .f{at}{{fill:{of};opacity:0.16}}");
    }
    css
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(series: Vec<Series>) -> Plot {
        Plot {
            id: "p",
            title: "A <title> & more".into(),
            about: "About \"it\".".into(),
            x: Axis { label: "percentile", scale: Scale::Nines, quantity: Quantity::Plain },
            y: Axis { label: "latency", scale: Scale::Fit, quantity: Quantity::Time },
            series,
            stamp: Some("GENERATOR-LIMITED".into()),
        }
    }

    fn series(thick: Vec<Point>) -> Series {
        Series {
            name: "<as felt>".into(),
            colour: 0,
            dashed: true,
            filled: false,
            thin: vec![thick.clone()],
            thick,
        }
    }

    fn text_of(svg: &str) -> String {
        let document = resvg::usvg::roxmltree::Document::parse(svg).expect("well-formed XML");
        document.descendants().filter_map(|node| node.text()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn a_plot_is_well_formed_and_says_what_it_shows() {
        let svg = plot(vec![series(vec![(0.0, 1e5), (1.0, 2e5), (3.0, 9e6)])]).svg(true).into_string();
        let text = text_of(&svg);
        for part in
            ["A <title> & more", "About \"it\".", "<as felt>", "GENERATOR-LIMITED", "99.9 %", "log scale"]
        {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(svg.contains("dash") && svg.contains("role=\"img\""));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn what_cannot_be_drawn_breaks_the_line() {
        let broken =
            vec![(0.0, 1e3), (1.0, f64::NAN), (2.0, 1e6), (f64::INFINITY, 1.0), (2.5, 0.0), (3.0, 2e6)];
        let svg = plot(vec![series(broken)]).svg(false).into_string();
        text_of(&svg);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let empty = plot(vec![series(Vec::new())]).svg(false).into_string();
        assert!(text_of(&empty).contains("Nothing was measured."));
        let zeros = plot(vec![series(vec![(0.0, 0.0), (1.0, 0.0)])]).svg(false).into_string();
        assert!(!zeros.contains("NaN") && text_of(&zeros).contains("percentile"));
    }

    #[test]
    fn a_point_without_neighbours_is_a_dot() {
        let lone = plot(vec![series(vec![(0.0, f64::NAN), (1.0, 1e3), (2.0, f64::NAN)])]);
        assert!(lone.svg(false).into_string().contains("h0.1\""));
    }

    #[test]
    fn many_points_keep_their_peaks() {
        let mut points: Vec<Point> = (0..100_000).map(|at| (f64::from(at), 1.0)).collect();
        points[70_001].1 = 50.0;
        points[31_234].1 = 0.1;
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS_MAX);
        assert!(thin.contains(&(70_001.0, 50.0)) && thin.contains(&(31_234.0, 0.1)));
        assert!(thin.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn ticks_are_round() {
        let labels = |range: Range| range.2.into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(ratios(Quantity::Time, 900.0, 4e6))[0], "1 µs");
        assert_eq!(labels(ratios(Quantity::Time, 2e5, 4e6)), ["200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]);
        assert_eq!(
            labels(steps(Quantity::Share, 0.9, false)),
            ["0", "20 %", "40 %", "60 %", "80 %", "100 %"]
        );
        assert_eq!(labels(steps(Quantity::Bytes, 210.0 * 1_048_576.0, false))[1], "50 MiB");
        assert_eq!(labels(nines(4.2)).last().unwrap(), "99.99 %");
    }

    #[test]
    fn a_legend_that_is_too_long_takes_another_row() {
        let mut many = plot((0..9).map(|_| series(vec![(0.0, 1.0)])).collect());
        for series in &mut many.series {
            series.name = "ceiling-coalesced, service only".into();
        }
        let placed = many.legend();
        assert!(placed.iter().all(|(at, _, _)| *at >= 14.0 && at + 31.0 * CHARACTER + 30.0 <= RIGHT));
        assert!(placed.last().unwrap().1 > placed[0].1);
    }
}
