//! The settings as text: every key explained (`config init`), and what holds (`config show`).

use super::keys::{Config, KEYS, SECTIONS};

const HEAD: &str = "\
# Settings of Tickcast.
#
# Every key is here, commented out, with its default. To change one, remove the # in front of it.
# A flag wins over an environment variable, that over this file, and this file over the default.
# Durations are whole numbers with ms, s, m or h; sizes with B, KiB, MiB or GiB.
";

/// The text of `config init`: every key, commented out, with its meaning, default, bounds, cost, what
/// happens at the limit and its environment variable. As a settings file it changes nothing, with or
/// without the comment signs in front of the keys.
#[must_use]
pub fn template() -> String {
    let mut text = HEAD.to_owned();
    for (section, about) in SECTIONS {
        text.push('\n');
        comment(&mut text, &about.join(""));
        text.push_str(&format!("[{section}]\n"));
        for key in KEYS.iter().filter(|key| key.section == *section) {
            text.push('\n');
            comment(&mut text, &key.doc.join(""));
            comment(&mut text, &format!("Takes {}.", key.kind));
            if let Some(cost) = key.cost {
                comment(&mut text, &format!("Cost: {cost}"));
            }
            if let (Some(at_limit), Some(counter)) = (key.at_limit, key.counter()) {
                comment(&mut text, &format!("At the limit: {at_limit}"));
                comment(&mut text, &format!("Counted as {counter}."));
            }
            comment(&mut text, &format!("Environment: {}", key.env()));
            text.push_str(&format!("#{} = {}\n", key.leaf(), key.default));
        }
    }
    text
}

impl Config {
    /// The text of `config show`: every key with the value that holds, as a settings file that says
    /// the same. `with_origin` adds to each where its value comes from.
    #[must_use]
    pub fn show(&self, with_origin: bool) -> String {
        let mut text = String::new();
        for (index, (section, _)) in SECTIONS.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            text.push_str(&format!("{gap}[{section}]\n"));
            for key in KEYS.iter().filter(|key| key.section == *section) {
                let effective = &self.effective[key.name];
                let line = format!("{} = {}", key.leaf(), effective.value);
                text.push_str(&match with_origin {
                    true => format!("{line:<48} # {}\n", effective.origin),
                    false => format!("{line}\n"),
                });
            }
        }
        text
    }
}

/// Words as comment lines of a page's width.
fn comment(text: &mut String, words: &str) {
    const COLUMNS: usize = 100;
    let mut column = COLUMNS;
    for word in words.split_whitespace() {
        let width = word.chars().count() + 1;
        if column + width > COLUMNS {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text.push('#');
            column = 1;
        }
        text.push(' ');
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}
