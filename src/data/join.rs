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
        // A file name alone is looked for in every folder, a path in every folder above it.
        let mut tries: Vec<_> = (0..4).map(|spelling| (spelling, key.as_str(), false)).collect();
        if stem(&key) != key {
            tries.extend([1, 3].map(|spelling| (spelling, stem(&key), true)));
        }
        for (spelling, key, other_ending) in tries {
            let found = self.spelled(spelling, key);
            if found.is_empty() {
                continue;
            }
            if let [file] = found[..] {
                return Ok(Found { file, other_ending });
            }
            // Where capitals are all that differs, the exact spelling decides.
            let exact: Vec<_> = found.iter().copied().filter(|&i| self.files[i] == text).collect();
            if let [file] = exact[..] {
                return Ok(Found { file, other_ending });
            }
            let names: Vec<_> = found.iter().take(3).map(|&i| self.files[i].as_str()).collect();
            return Err(format!("{} files could be meant: {}", found.len(), names.join(", ")));
        }
        Err("no such file".into())
    }

    /// The files that `key` is, in one of the spellings; a path may lack the folders it begins with.
    fn spelled(&self, spelling: usize, key: &str) -> Vec<usize> {
        let whole = spelling < 2 || !key.contains('/');
        let last = if whole { key } else { key.rsplit('/').next().unwrap_or_default() };
        let mut found = self.spellings[spelling].get(last).cloned().unwrap_or_default();
        found.retain(|&i| {
            let path = normal(&self.files[i]);
            let path = if spelling == 3 { stem(&path) } else { &path };
            whole || path.strip_suffix(key).is_some_and(|folders| folders.ends_with('/'))
        });
        found
    }
}

/// Lower case, `/` between parts, no leading `./` or `/`, no spaces around nor before the ending.
fn normal(text: &str) -> String {
    let text = text.trim().replace('\\', "/").to_lowercase();
    let text = text.trim_start_matches("./").trim_start_matches('/');
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
        let names = [
            "images/War 2 .jpg",
            "images/2055.1.JPG",
            "images/2055.10.jpg",
            "x/a.png",
            "y/a.png",
            "A.jpg",
            "B.BMP",
            "z/deep/down.png",
        ];
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
            ("/deep/down.png", 7),
            ("deep/down", 7),
        ] {
            assert_eq!(find(text), Ok((file, false)), "{text}");
        }
        assert_eq!(find("b.jpg"), Ok((6, true)));
        assert_eq!(find("a.png"), Err("2 files could be meant: x/a.png, y/a.png".into()));
        for text in ["2055", "z/a.png", "War", "eep/down"] {
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
