/*! Which file a row means. Joined by name, never by position: sorted lists of 1, 10, 100 … against rows 1, 2, 3 … pair every
picture with somebody else's rating and nothing complains. Capitals, stray spaces, endings, the composition of accents and
the way a number is written differ between tables and folders, so they may differ here, as long as exactly one file is
meant; and of the paths of another machine, the longest end that names a file counts. */

use super::compose::compose;
use super::walk::is_picture;
use std::collections::HashMap;

/// The files of a folder, by several spellings of their names.
pub struct Files {
    files: Vec<String>,
    /// Relative path; relative path without ending; file name; file name without ending.
    spellings: [HashMap<String, Vec<usize>>; 4],
    /// File names that are numbers, as [`number`] writes them.
    numbers: HashMap<String, Vec<usize>>,
}

/// A match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub file: usize,
    pub how: How,
}

/// What had to be looked past to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing but capitals and spaces.
    Named,
    /// The file has another ending.
    OtherEnding,
    /// The file's number is written in another way: 1050 for 1050.0.
    Number,
    /// The path began with folders of another machine.
    Elsewhere,
}

impl Files {
    /// `files` are relative to the folder, with `/` between the parts.
    pub fn new(files: Vec<String>) -> Self {
        let mut spellings: [HashMap<String, Vec<usize>>; 4] = Default::default();
        let mut numbers: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, file) in files.iter().enumerate() {
            let path = normal(file);
            let name = path.rsplit('/').next().unwrap_or(&path);
            for (map, key) in spellings.iter_mut().zip([&path, stem(&path), name, stem(name)]) {
                map.entry(key.to_string()).or_default().push(i);
            }
            if let Some(number) = number(stem(name)) {
                numbers.entry(number).or_default().push(i);
            }
        }
        Self { files, spellings, numbers }
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
        let mut how = How::Named;
        let mut found = self.any(&key, &mut how);
        // Folders of another machine, which is told by its root, are taken off one by one.
        if found.is_empty() && elsewhere(text) {
            let ends = key.match_indices('/').map(|(i, _)| &key[i + 1..]);
            found = ends.map(|end| self.any(end, &mut how)).find(|f| !f.is_empty()).unwrap_or_default();
            how = How::Elsewhere;
        }
        if found.is_empty()
            && let Some(files) = number(stem(&key)).and_then(|n| self.numbers.get(&n))
        {
            (found, how) = (files.clone(), How::Number);
        }
        // Where capitals are all that differs, the exact spelling decides.
        let exact: Vec<_> = found.iter().copied().filter(|&i| self.files[i] == text).collect();
        match (&found[..], &exact[..]) {
            ([file], _) | (_, [file]) => Ok(Found { file: *file, how }),
            ([], _) => Err("no such file".into()),
            _ => {
                let names: Vec<_> = found.iter().take(3).map(|&i| self.files[i].as_str()).collect();
                Err(format!("{} files could be meant: {}", found.len(), names.join(", ")))
            }
        }
    }

    /// The files that `key` is in the first of the spellings that any is in.
    fn any(&self, key: &str, how: &mut How) -> Vec<usize> {
        // A file name alone is looked for in every folder, a path in every folder above it.
        let found = (0..4).map(|spelling| self.spelled(spelling, key)).find(|f| !f.is_empty());
        found.unwrap_or_else(|| {
            let bare = stem(key);
            let other = [1, 3].map(|spelling| if bare == key { Vec::new() } else { self.spelled(spelling, bare) });
            let found = other.into_iter().find(|f| !f.is_empty()).unwrap_or_default();
            if !found.is_empty() {
                *how = How::OtherEnding;
            }
            found
        })
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

/// Lower case, letters and their marks composed, `/` between parts, no leading `./` or `/`, no spaces around nor before the
/// ending.
fn normal(text: &str) -> String {
    let text = compose(text.trim()).replace('\\', "/").to_lowercase();
    let text = text.trim_start_matches("./").trim_start_matches('/');
    let bare = stem(text);
    format!("{}{}", bare.trim_end(), &text[bare.len()..])
}

/// Whether a path begins at a root: `/home/..`, `C:\..`, `\\server\..`, `~/..`, `https://..`.
fn elsewhere(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(['/', '\\']) || text.starts_with("~/") || text.get(1..2) == Some(":") || text.contains("://")
}

/// A number without the zeros that programs add and take away: `1050.0` and `01050` are `1050`. None of what is no number.
fn number(text: &str) -> Option<String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let number = format!("{}.{}", whole.trim_start_matches('0'), part.trim_end_matches('0'));
    Some(number.trim_end_matches('.').into())
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
        let find = |text| files.find(text).map(|f| (f.file, f.how));
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
            assert_eq!(find(text), Ok((file, How::Named)), "{text}");
        }
        assert_eq!(find("b.jpg"), Ok((6, How::OtherEnding)));
        assert_eq!(find("a.png"), Err("2 files could be meant: x/a.png, y/a.png".into()));
        for text in ["2055", "z/a.png", "War", "eep/down", "/x/none.png"] {
            assert_eq!(find(text), Err("no such file".into()), "{text}");
        }
        assert!(find(" ").is_err());
    }

    #[test]
    fn numbers_are_written_in_several_ways() {
        let files = Files::new(
            ["1050.jpg", "2055.1.jpg", "007.jpg", "x/8.0.jpg", "8.jpg", "y/30.jpg", "z/030.jpg"]
                .map(String::from)
                .into(),
        );
        let find = |text| files.find(text).map(|f| (f.file, f.how));
        for (text, file) in [("1050.0", 0), ("1050.00", 0), ("2055.10", 1), ("7", 2), ("7.0", 2)] {
            assert_eq!(find(text), Ok((file, How::Number)), "{text}");
        }
        assert_eq!((find("8.0"), find("8")), (Ok((3, How::Named)), Ok((4, How::Named))));
        // As many digits as they have: 030 is not 30 where both are there.
        assert_eq!((find("30"), find("030")), (Ok((5, How::Named)), Ok((6, How::Named))));
        assert!(find("30.0").unwrap_err().contains("2 files could be meant"));
        assert!(find("1051.0").is_err() && find("1050.1").is_err() && find("1050x").is_err());
    }

    #[test]
    fn paths_of_another_machine_are_known_by_their_ends() {
        let files =
            Files::new(["images/a.jpg", "images/b.png", "u/c.jpg", "v/c.jpg", "e\u{301}.jpg"].map(String::from).into());
        let find = |text| files.find(text).map(|f| (f.file, f.how));
        for (text, file) in [
            ("/home/x/data/images/a.jpg", 0),
            ("C:\\data\\images\\b.png", 1),
            ("\\\\server\\share\\images\\B.jpg", 1),
            ("~/v/c.jpg", 3),
            ("https://example.org/d/a.jpg", 0),
        ] {
            assert_eq!(find(text), Ok((file, How::Elsewhere)), "{text}");
        }
        assert!(find("/home/w/c.jpg").unwrap_err().contains("2 files could be meant: u/c.jpg, v/c.jpg"));
        assert_eq!(find("home/x/images/a.jpg"), Err("no such file".into()));
        assert_eq!(find("\u{c9}.jpg"), Ok((4, How::Named)));
    }

    #[test]
    fn capitals_decide_where_nothing_else_does() {
        let files = Files::new(["a.jpg", "A.jpg"].map(String::from).into());
        assert_eq!(files.find("A.jpg").unwrap().file, 1);
        assert!(files.find("A").is_err());
    }
}
