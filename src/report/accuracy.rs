//! Train and test accuracies of classifiers over folds, as the paper lays them out (Parry & Vuong 2021, Table S1): a pair
//! of columns, mean and sample SD, for each network.

use super::study::Sheet;
use crate::table::number;
use crate::train::folds::Spread;

/// One network over its folds, in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// `9-FER`.
    pub name: String,
    pub train: Spread,
    pub test: Spread,
}

/// The table.
pub fn sheet(all: &[Accuracy]) -> Sheet {
    let names = all.iter().map(|a| (format!("{} Model", a.name), 2));
    let row = |name: &str, of: fn(&Accuracy) -> Spread| {
        let pairs = all.iter().flat_map(|a| [of(a).mean, of(a).sd]).map(|v| number(v, 2));
        std::iter::once(name.to_string()).chain(pairs).collect()
    };
    let columns = all.iter().flat_map(|_| ["M %", "SD %"]);
    Sheet {
        header: vec![
            std::iter::once((String::new(), 1)).chain(names).collect(),
            Sheet::plain(std::iter::once("").chain(columns)),
        ],
        rows: vec![row("Train", |a| a.train), row("Test", |a| a.test)],
        ..Sheet::new("accuracy", "Train and test accuracies of the facial expression networks over folds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the paper's table.
    #[test]
    fn table_s1() {
        let of = |mean, sd| Spread { mean: Some(mean), sd: Some(sd) };
        let one = Spread { sd: None, ..of(71.71, 0.0) };
        let sheet = sheet(&[
            Accuracy { name: "9-FER".into(), train: of(73.41, 5.2), test: of(53.75, 1.22) },
            Accuracy { name: "5-FER".into(), train: of(88.51, 3.16), test: one },
        ]);
        assert_eq!(
            String::from_utf8(sheet.csv()).unwrap(),
            ",9-FER Model M %,9-FER Model SD %,5-FER Model M %,5-FER Model SD %\nTrain,73.41,5.20,88.51,3.16\n\
             Test,53.75,1.22,71.71,\n"
        );
        assert!(sheet.latex().contains("\\multicolumn{2}{c}{5-FER Model}"));
    }
}
