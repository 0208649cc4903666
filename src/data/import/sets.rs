/*! The sets that are known: one list, from which the commands, their help and the table of `src/data/README.md` come. Where a set goes round
in several forms, each is among the names. Sources: the sets' own files and readmes, and loaders of others where a set is
given on request only. */

use super::find;
use super::records::Search;
use super::sheet::{Group, Keep, Rated, Sheet};
use super::{Import, Scale, Unpacked, affectnet, labels, lines, people, scale};
use crate::data::table::{Table, TableOptions};
use crate::error::{Error, Result, option};
use std::path::PathBuf;

/// A published set.
pub struct Set {
    /// What it is called on the command line, and its `dataset` in the manifest.
    pub name: &'static str,
    /// Whose it is.
    pub what: &'static str,
    /// The ends of the scale it is rated on, `LOW:HIGH`, one for both or one each; empty for a set of labels alone.
    pub scale: &'static str,
    /// What its folder holds.
    pub holds: &'static str,
    how: How,
}

/// How it is read.
#[expect(clippy::large_enum_variant, reason = "the sets are one static table that is never moved")]
enum How {
    /// One table of one row a picture.
    Table(Layout),
    /// Something else. Gets the set's scales.
    Code(fn(&SetImport) -> Result<Import>),
}

/// One table, its folder and its columns.
struct Layout {
    /// Names of the table.
    tables: &'static [&'static str],
    /// Names of the folder of pictures beside it.
    pictures: &'static [&'static str],
    columns: Sheet<'static>,
}

/// A set and where it lies.
pub struct SetImport<'a> {
    pub from: Unpacked<'a>,
    pub dataset: &'static str,
    pub scales: [Scale; 3],
}

impl<'a> SetImport<'a> {
    /// The table: the user's, or the one that is there.
    pub fn table(&self, names: &[&str]) -> Result<PathBuf> {
        match self.from.table {
            Some(table) => Ok(table.into()),
            None => find::file(self.from.root, names),
        }
    }

    /// GIF and TIFF files are left out.
    pub fn search<'b>(&self, root: &'b std::path::Path) -> Search<'b> {
        Search { root, dataset: Some(self.dataset), stills: true }
    }
}

const NO_RATING: Rated<'static> = Rated { mean: &[], sd: &[], n: &[] };

/// All of them.
pub const SETS: &[Set] = &[
    Set {
        name: "oasis",
        what: "Open Affective Standardized Image Set (Kurdi, Lozano & Banaji 2017)",
        scale: "1:7",
        holds: "OASIS.csv; images/<Theme>.jpg",
        // The first column holds I1..I900 and has no name. `Scenery` is what the authors' repository calls `Scene`.
        how: How::Table(Layout {
            tables: &["OASIS.csv"],
            pictures: &["images"],
            columns: Sheet {
                valence: Rated { mean: &["Valence_mean"], sd: &["Valence_SD"], n: &["Valence_N"] },
                arousal: Rated { mean: &["Arousal_mean"], sd: &["Arousal_SD"], n: &["Arousal_N"] },
                group: Group::Theme("Theme"),
                keep: &[
                    Keep::new("id", &["#1"]),
                    Keep { renamed: &[("Scenery", "Scene")], ..Keep::new("category", &["Category"]) },
                ],
                ..Sheet::key(&["Theme"])
            },
        }),
    },
    Set {
        name: "iaps",
        what: "International Affective Picture System (Lang, Bradley & Cuthbert 2008)",
        scale: "1:9",
        holds: "AllSubjects_1-20.txt; <IAPS>.jpg",
        // Prose above the header; ids with a decimal part, so they stay text; some ids come twice, in two rating sets.
        how: How::Table(Layout {
            tables: &["AllSubjects*.txt", "IAPS*.ods", "IAPS*.xls*", "IAPS*.csv", "IAPS*.txt"],
            pictures: &[],
            columns: Sheet {
                valence: Rated { mean: &["valmn"], sd: &["valsd"], n: &[] },
                arousal: Rated { mean: &["aromn"], sd: &["arosd"], n: &[] },
                keep: &[
                    Keep::new("id", &["IAPS"]),
                    Keep::new("category", &["desc"]),
                    Keep::new("rating_set", &["set"]),
                ],
                ..Sheet::key(&["IAPS"])
            },
        }),
    },
    Set {
        name: "smid",
        what: "Socio-Moral Image Database (Crone et al. 2018)",
        scale: "1:5",
        holds: "SMID_norms.csv; img/<id>.jpg, .jpeg, .png",
        how: How::Table(Layout {
            tables: &["SMID_norms.csv"],
            pictures: &["img", "SMID_images_400px"],
            columns: Sheet {
                valence: Rated { mean: &["valence_mean"], sd: &["valence_sd"], n: &["valence_n"] },
                arousal: Rated { mean: &["arousal_mean"], sd: &["arousal_sd"], n: &["arousal_n"] },
                keep: &[Keep::new("moral_mean", &["moral_mean"])],
                ..Sheet::key(&["img_name", "#1"])
            },
        }),
    },
    Set {
        name: "ied",
        what: "Image Emotion Dataset, CGnA10766 (Kim et al. 2018)",
        scale: "1:9",
        holds: "valence_avg_10766*.txt, arousal_avg_10766*.txt; 1.jpg, 2.jpg, ...",
        how: How::Code(lines::ied),
    },
    Set {
        name: "naps",
        what: "Nencki Affective Picture System (Marchewka et al. 2014)",
        scale: "1:9",
        holds: "Valence, arousal and approach-avoidance ratings*.xls, or its CSV; <ID>.jpg",
        // In the authors' workbook the header has two rows and nine columns are called M: of women, men and all, valence,
        // arousal and approach; pandas calls those of all M.6 and M.8.
        how: How::Table(Layout {
            tables: &["Valence, arousal*ratings*.xls*", "NAPS*.xls*", "NAPS*.csv", "NAPS*.tsv", "NAPS*.txt"],
            pictures: &[],
            columns: Sheet {
                valence: Rated {
                    mean: &["Valence", "M valence", "valence_mean", "M.6"],
                    sd: &["SD valence", "SD.6"],
                    n: &[],
                },
                arousal: Rated {
                    mean: &["Arousal", "M arousal", "arousal_mean", "M.8"],
                    sd: &["SD arousal", "SD.8"],
                    n: &[],
                },
                keep: &[Keep::new("category", &["Category"])],
                ..Sheet::key(&["ID", "Filename", "image_filename"])
            },
        }),
    },
    Set {
        name: "gaped",
        what: "Geneva Affective Picture Database (Dan-Glauser & Scherer 2011)",
        scale: "0:100",
        holds: "A.txt, H.txt, N.txt, P.txt, Sn.txt, Sp.txt; A/<name>.bmp, ...",
        how: How::Code(lines::gaped),
    },
    Set {
        name: "emomadrid",
        what: "EmoMadrid (Carretié et al. 2019)",
        scale: "-2:2",
        holds: "EMindex*.xlsx; <EM CODE>.jpg",
        how: How::Table(Layout {
            tables: &["EMindex*.xls*", "EMindex*.csv"],
            pictures: &[],
            columns: Sheet {
                valence: Rated { mean: &["Mean Valence"], sd: &["SD Valence"], n: &[] },
                arousal: Rated { mean: &["Mean Arousal"], sd: &["SD Arousal"], n: &[] },
                ..Sheet::key(&["EM CODE"])
            },
        }),
    },
    Set {
        name: "dirti",
        what: "Disgust-Related-Images (Haberkamp et al. 2017)",
        scale: "1:9",
        holds: "DIRTI*.xlsx or *.csv; <picture>.jpg",
        // Columns differ between copies; where none of these fits, `import csv` takes their names.
        how: How::Table(Layout {
            tables: &["DIRTI*.xls*", "DIRTI*.csv", "*rating*.xls*", "*rating*.csv"],
            pictures: &[],
            columns: Sheet {
                valence: Rated {
                    mean: &["Valence", "Valence mean", "Mean valence", "valence_mean", "M valence", "Valence M"],
                    sd: &["Valence SD", "SD valence", "valence_sd"],
                    n: &[],
                },
                arousal: Rated {
                    mean: &["Arousal", "Arousal mean", "Mean arousal", "arousal_mean", "M arousal", "Arousal M"],
                    sd: &["Arousal SD", "SD arousal", "arousal_sd"],
                    n: &[],
                },
                keep: &[Keep::new("category", &["Category", "Theme"])],
                ..Sheet::key(&[
                    "Picture",
                    "Image",
                    "Filename",
                    "File",
                    "Name",
                    "ID",
                    "Picture name",
                    "Image name",
                    "Code",
                ])
            },
        }),
    },
    Set {
        name: "emotion6",
        what: "Emotion6 (Peng et al. 2015)",
        scale: "1:9",
        holds: "ground_truth.txt; images/<emotion>/<n>.jpg",
        how: How::Code(labels::emotion6),
    },
    Set {
        name: "emotionroi",
        what: "EmotionROI (Peng et al. 2016)",
        scale: "1:9",
        holds: "ground_truth.txt; images/<emotion>/<n>.jpg; training_testing_split/",
        how: How::Code(labels::emotion6),
    },
    Set {
        name: "emotic",
        what: "Emotions in Context (Kosti et al. 2017), persons averaged",
        scale: "1:10",
        holds: "annot_arrs_train.csv, ... or a CSV of Annotations.mat; <Folder>/<Filename>",
        how: How::Code(people::emotic),
    },
    Set {
        name: "findingemo",
        what: "FindingEmo (Mertens et al. 2024), one rater a picture",
        scale: "-3:3, 0:6",
        holds: "annotations_single.ann; Run_<k>/<query>/<file>",
        how: How::Table(Layout {
            tables: &["annotations_single.ann", "annotations*.ann"],
            pictures: &[],
            columns: Sheet {
                valence: Rated { mean: &["valence"], ..NO_RATING },
                arousal: Rated { mean: &["arousal"], ..NO_RATING },
                keep: &[
                    Keep { needed: true, ..Keep::new("label", &["emotion"]) },
                    Keep::new("rater", &["user"]),
                    Keep::new("ambiguity", &["ambiguity"]),
                ],
                ..Sheet::key(&["image_path"])
            },
        }),
    },
    Set {
        name: "affectnet",
        what: "AffectNet of 2017 (Mollahosseini, Hasani & Mahoor 2017)",
        scale: "-1:1",
        holds: "training.csv, validation.csv; Manually_Annotated_Images/<folder>/<file>",
        how: How::Code(affectnet::tables),
    },
    Set {
        name: "affectnet-npy",
        what: "AffectNet as handed out later: cropped faces, one .npy a value",
        scale: "-1:1",
        holds: "train_set/ and val_set/, each with images/<id>.jpg and annotations/<id>_exp.npy, ...",
        how: How::Code(affectnet::arrays),
    },
    Set {
        name: "fi",
        what: "FI, Flickr and Instagram (You et al. 2016)",
        scale: "",
        holds: "<emotion>/<file>.jpg for 8 emotions; train.json, val.json, test.json if there",
        how: How::Code(labels::folders),
    },
    Set {
        name: "artphoto",
        what: "ArtPhoto (Machajdik & Hanbury 2010)",
        scale: "",
        holds: "<emotion>_<n>.jpg",
        how: How::Code(labels::names),
    },
    Set {
        name: "abstract",
        what: "Abstract paintings (Machajdik & Hanbury 2010)",
        scale: "",
        holds: "ABSTRACT_groundTruth.csv; abstract_<n>.jpg",
        how: How::Code(labels::votes),
    },
    Set {
        name: "emoset",
        what: "EmoSet-118K (Yang et al. 2023)",
        scale: "",
        holds: "train.json, val.json, test.json; image/<emotion>/<id>.jpg",
        how: How::Code(labels::lists),
    },
];

/// A set by its name.
pub fn set(name: &str) -> Option<&'static Set> {
    SETS.iter().find(|s| s.name == name)
}

impl Set {
    /// The scales of valence, arousal and dominance, that of valence where no other is named; none for a set of labels alone.
    pub fn scales(&self) -> Option<[Scale; 3]> {
        let mut ends = self.scale.split(", ").filter_map(|text| scale(text).ok());
        let valence = ends.next()?;
        Some([valence, ends.next().unwrap_or(valence), ends.next().unwrap_or(valence)])
    }

    /// Reads the set. Errors name the file that is missing, or the line that is wrong.
    pub fn import(&'static self, from: Unpacked) -> Result<Import> {
        let place = SetImport { from, dataset: self.name, scales: self.scales().unwrap_or([(1.0, 9.0); 3]) };
        match &self.how {
            How::Code(read) => read(&place),
            How::Table(layout) => layout.read(&place),
        }
    }

    /// A line of the table in `src/data/README.md`.
    pub fn markdown(&self) -> String {
        let scale = if self.scale.is_empty() { "labels" } else { self.scale };
        format!("| `{}` | {} | {scale} | {} |", self.name, self.what, self.holds.replace('<', "&lt;"))
    }
}

impl Layout {
    fn read(&self, place: &SetImport) -> Result<Import> {
        let file = place.table(self.tables)?;
        let find = self.columns.needs();
        let options = TableOptions { sheet: place.from.sheet, find: &find, ragged: true, ..TableOptions::default() };
        let table = Table::read(&file, &options)?;
        let root = find::pictures(place.from.root, &file, self.pictures)?;
        let records = self.columns.read(&table, place.scales).map_err(|e| match e.kind() {
            // A column that is missing is no wrong request here: the user named none.
            crate::error::Kind::Usage => Error::file(&file, format!("is no table of {}: {e}", place.dataset)).fix(
                format!("name another with {}, or read it with `import csv` and name its columns", option("table")),
            ),
            _ => e,
        })?;
        records.find(place.search(&root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sound() {
        for (i, set) in SETS.iter().enumerate() {
            assert!(SETS[..i].iter().all(|other| other.name != set.name), "{} comes twice", set.name);
            assert_eq!(set.scales().is_none(), set.scale.is_empty(), "{}", set.name);
            if let How::Table(layout) = &set.how {
                assert!(!layout.columns.needs().is_empty(), "{}", set.name);
            }
        }
        assert_eq!(set("findingemo").unwrap().scales(), Some([(-3.0, 3.0), (0.0, 6.0), (-3.0, 3.0)]));
        assert_eq!(set("gaped").unwrap().scales(), Some([(0.0, 100.0); 3]));
    }
}
