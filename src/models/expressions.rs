//! The classes of the face tower (Parry & Vuong 2021, supplement 1.3), in the order of its outputs.

use crate::error::{Error, Result};

/// Eight expressions and the absence of a face.
pub const NINE: [&str; 9] =
    ["happiness", "sadness", "fear", "anger", "surprise", "disgust", "contempt", "neutral", "no-face"];
/// The basic ones: fewer, and told apart more often.
pub const FIVE: [&str; 5] = ["happiness", "sadness", "fear", "anger", "no-face"];

/// The classes of the network with so many outputs.
pub fn expressions(classes: usize) -> Result<&'static [&'static str]> {
    match classes {
        5 => Ok(&FIVE),
        9 => Ok(&NINE),
        n => Err(Error::usage(format!("there is no face network of {n} classes")).fix("choose 5 or 9")),
    }
}

/// Which of `classes` a label is, if any: capitals do not matter, and the adjectives of other sets are understood.
pub fn expression(classes: &[&str], label: &str) -> Option<usize> {
    let label = label.trim().to_ascii_lowercase().replace(['_', ' '], "-");
    let name = match label.as_str() {
        "happy" => "happiness",
        "sad" => "sadness",
        "angry" => "anger",
        "noface" => "no-face",
        other => other,
    };
    classes.iter().position(|c| *c == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_other_sets() {
        assert_eq!(expressions(5).unwrap().iter().map(|c| expression(&NINE, c).unwrap()).sum::<usize>(), 14);
        assert_eq!(expression(&FIVE, " No Face "), Some(4));
        assert_eq!(expression(&NINE, "Happy"), Some(0));
        assert_eq!(expression(&FIVE, "surprise"), None);
        assert_eq!(expression(&NINE, "uncertain"), None);
        assert!(expressions(8).unwrap_err().to_string().ends_with("choose 5 or 9"));
    }
}
