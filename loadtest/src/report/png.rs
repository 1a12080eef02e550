//! PNG pictures of a run's plots, for pages that show no SVG.
//!
//! Invariants: the picture is the report's own SVG, rasterised at twice its size with the typeface inside this
//! program: no font of the machine is read, so the same results give the same picture everywhere.
#![forbid(unsafe_code)]

use resvg::{tiny_skia, usvg};

use super::figure::Measured;
use super::plot::{HEIGHT, Plot, WIDTH};
use super::plots::{self, Source};
use crate::results::Run;

/// Pixels for each unit of the SVG.
const SCALE: f64 = 2.0;
/// The family's name inside the font file.
const FAMILY: &str = "Ubuntu";

/// Why no picture could be made; none of these can follow from a run's content.
#[derive(Debug, thiserror::Error)]
pub enum PngError {
    /// The SVG was refused.
    #[error("the plot is no valid SVG")]
    Svg(#[from] usvg::Error),
    /// No memory for the pixels.
    #[error("no memory for a picture of {WIDTH} by {HEIGHT} at scale {SCALE}")]
    Memory,
    /// The encoder failed.
    #[error("the picture could not be encoded: {0}")]
    Encode(String),
}

/// Latency by percentile.
pub fn latency(run: &Run) -> Result<Vec<u8>, PngError> {
    rasterise(&plots::percentiles(&sources(run)))
}

/// Deliveries a second over time.
pub fn throughput(run: &Run) -> Result<Vec<u8>, PngError> {
    rasterise(&plots::throughput(&sources(run)))
}

fn sources(run: &Run) -> Vec<Source<'_>> {
    Measured::all(run).into_iter().map(Source::new).collect()
}

fn rasterise(plot: &Plot) -> Result<Vec<u8>, PngError> {
    let mut options = usvg::Options { font_family: FAMILY.to_owned(), ..usvg::Options::default() };
    let fonts = options.fontdb_mut();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    fonts.set_sans_serif_family(FAMILY);
    let tree = usvg::Tree::from_str(&plot.svg(true).into_string(), &options)?;
    let mut picture =
        tiny_skia::Pixmap::new((WIDTH * SCALE) as u32, (HEIGHT * SCALE) as u32).ok_or(PngError::Memory)?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(SCALE as f32, SCALE as f32), &mut picture.as_mut());
    picture.encode_png().map_err(|error| PngError::Encode(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    /// Share of pixels that are not of the colour of the first.
    fn inked(png: &[u8]) -> f64 {
        let picture = tiny_skia::Pixmap::decode_png(png).expect("a PNG");
        assert_eq!(
            (f64::from(picture.width()), f64::from(picture.height())),
            (WIDTH * SCALE, HEIGHT * SCALE)
        );
        let ground = picture.pixels()[0];
        picture.pixels().iter().filter(|pixel| **pixel != ground).count() as f64
            / picture.pixels().len() as f64
    }

    #[test]
    fn pictures_decode_and_are_not_blank() {
        for run in [sample::run(), sample::pair()] {
            assert!(inked(&latency(&run).unwrap()) > 0.02);
            assert!(inked(&throughput(&run).unwrap()) > 0.02);
        }
    }

    #[test]
    fn text_is_drawn_with_the_typeface_inside() {
        let (mut named, mut nameless) = (plots::throughput(&[]), plots::throughput(&[]));
        named.title = "WWWWWWWWWWWWWWWWWWWW".into();
        nameless.title = String::new();
        assert!(inked(&rasterise(&named).unwrap()) > inked(&rasterise(&nameless).unwrap()));
    }

    #[test]
    fn an_empty_run_and_hostile_names_still_give_a_picture() {
        assert!(inked(&latency(&Run::default()).unwrap()) > 0.0);
        let mut run = sample::run();
        for repetition in &mut run.repetitions {
            repetition.target = "\0\u{1b}</svg>&\u{fffe}".into();
        }
        assert!(inked(&latency(&run).unwrap()) > 0.02);
    }
}
