/*! Which file a row means. Joined by name, never by position: sorted lists of 1, 10, 100 … against rows 1, 2, 3 … pair every
picture with somebody else's rating and nothing complains. Capitals, stray spaces and endings differ between tables and
folders, so they may differ here, as long as exactly one file is meant. */

use super::walk::is_picture;
use std::collections::HashMap;

/// The files of a folder, by several spellings of their names.
pub struct Files {
    files: Vec<String>,
    /// Relative path; relative path without ending; file name; file name without ending.
    spellings: [HashMap<String, Vec<usize>>; 4],
}

/// A match, and whether only another ending made it one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub file: usize,
    pub other_ending: bool,
}

impl Files {
    /// `files` are relative to the folder, with `/` between the parts.
    pub fn new(files: Vec<String>) -> Self {
        let mut spellings: [HashMap<String, Vec<usize>>; 4] = Default::default();
        for (i, file) in files.iter().enumerate() {
            let path = normal(file);
            let name = path.rsplit('/').next().unwrap_or(&path);
            for (map, key) in spellings.iter_mut().zip([&path, stem(&path), name, stem(name)]) {
                map.entry(key.to_string()).or_default().push(i);
            }
        }
        Self { files, spellings }
    }
    pub fn names(&self) -> &[String] {
        &self.files
    }
    /// The file a table's text means: a path or a file name, with or without ending. The reason if there is none, or
    /// more than one.
    pub fn find(&self, text: &str) -> Result<Found, String> {
        let key = normal(text);
        if key.is_empty() {
            return Err("no picture is named".into());
        }
        let [path, path_stem, name, name_stem] = &self.spellings;
        let mut tries = vec![(path, key.as_str(), false), (path_stem, &key, false)];
        // A file name alone is looked for in every folder; a path is not taken apart.
        if !key.contains('/') {
            tries.extend([(name, key.as_str(), false), (name_stem, &key, false)]);
        }
        if stem(&key) != key {
            tries.push((path_stem, stem(&key), true));
            if !key.contains('/') {
                tries.push((name_stem, stem(&key), true));
            }
        }
        for (map, key, other_ending) in tries {
            let Some(found) = map.get(key) else { continue };
            if let [file] = found[..] {
                return Ok(Found { file, other_ending });
            }
            // Where capitals are all that differs, the exact spelling decides.
            let exact: Vec<_> = found.iter().filter(|&&i| self.files[i] == text).collect();
            if let [&file] = exact[..] {
                return Ok(Found { file, other_ending });
            }
            let names: Vec<_> = found.iter().take(3).map(|&i| self.files[i].as_str()).collect();
            return Err(format!("{} files could be meant: {}", found.len(), names.join(", ")));
        }
        Err("no such file".into())
    }
}

/// Lower case, `/` between parts, no leading `./`, no spaces around nor before the ending.
fn normal(text: &str) -> String {
    let text = text.trim().replace('\\', "/").to_lowercase();
    let text = text.trim_start_matches("./");
    let bare = stem(text);
    format!("{}{}", bare.trim_end(), &text[bare.len()..])
}

/// Without the ending, if that is a picture's; `2055.1` has none.
fn stem(text: &str) -> &str {
    match text.rsplit_once('.') {
        Some((stem, _)) if is_picture(text) => stem,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_by_what_they_mean() {
        let names =
            ["images/War 2 .jpg", "images/2055.1.JPG", "images/2055.10.jpg", "x/a.png", "y/a.png", "A.jpg", "B.BMP"];
        let files = Files::new(names.map(String::from).into());
        let find = |text| files.find(text).map(|f| (f.file, f.other_ending));
        for (text, file) in [
            ("War 2", 0),
            ("war 2 ", 0),
            ("images\\War 2.jpg", 0),
            ("2055.1", 1),
            ("2055.10", 2),
            ("./images/2055.1.jpg", 1),
            ("x/a", 3),
            ("a", 5),
            ("a.jpg", 5),
        ] {
            assert_eq!(find(text), Ok((file, false)), "{text}");
        }
        assert_eq!(find("b.jpg"), Ok((6, true)));
        assert_eq!(find("a.png"), Err("2 files could be meant: x/a.png, y/a.png".into()));
        for text in ["2055", "z/a.png", "War"] {
            assert_eq!(find(text), Err("no such file".into()), "{text}");
        }
        assert!(find(" ").is_err());
    }

    #[test]
    fn capitals_decide_where_nothing_else_does() {
        let files = Files::new(["a.jpg", "A.jpg"].map(String::from).into());
        assert_eq!(files.find("A.jpg").unwrap().file, 1);
        assert!(files.find("A").is_err());
    }
}
