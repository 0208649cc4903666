//! Train and test accuracies of classifiers over folds, as the paper lays them out (Parry & Vuong 2021, Table S1): a pair
//! of columns, mean and sample SD, for each network.

use crate::table::{number, text_table};
use crate::train::folds::Spread;

/// One network over its folds, in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// `9-FER`.
    pub name: String,
    pub train: Spread,
    pub test: Spread,
}

/// What a row shows of a network.
type Part = (&'static str, fn(&Accuracy) -> Spread);
const PARTS: [Part; 2] = [("Train", |a| a.train), ("Test", |a| a.test)];

fn cells(all: &[Accuracy], (name, of): &Part, mean: impl Fn(String) -> String) -> Vec<String> {
    let pair = |a: &Accuracy| [mean(number(of(a).mean, 2)), number(of(a).sd, 2)];
    std::iter::once(name.to_string()).chain(all.iter().flat_map(pair)).collect()
}

fn header(all: &[Accuracy]) -> Vec<String> {
    let pair = |a: &Accuracy| [format!("{} M %", a.name), "SD".to_string()];
    std::iter::once("Accuracy".to_string()).chain(all.iter().flat_map(pair)).collect()
}

/// For a terminal.
pub fn text(all: &[Accuracy]) -> String {
    text_table(&header(all), &PARTS.each_ref().map(|p| cells(all, p, |m| m)))
}

pub fn markdown(all: &[Accuracy]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let rule = line(header(all).iter().enumerate().map(|(i, _)| if i == 0 { ":--" } else { "--:" }.into()).collect());
    let rows: String = PARTS.iter().map(|p| line(cells(all, p, |m| m))).collect();
    line(header(all)) + &rule + &rows
}

/// A `tabular` that needs no package.
pub fn latex(all: &[Accuracy]) -> String {
    let names: String = all.iter().map(|a| format!(" & \\multicolumn{{2}}{{c}}{{{} Model}}", a.name)).collect();
    let row = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
    let rows: String = PARTS.iter().map(|p| row(cells(all, p, |m| m + "\\%"))).collect();
    format!(
        "\\begin{{tabular}}{{l{}}}\n\\hline\n{names} \\\\\n{} \\\\\n\\hline\n{rows}\\hline\n\\end{{tabular}}\n",
        "rr".repeat(all.len()),
        " & M & SD".repeat(all.len()),
    )
}

/// One row a network and part, with every digit: what is missing is an empty cell.
pub fn csv(all: &[Accuracy]) -> String {
    let cell = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
    let line = |(a, (part, of)): (&Accuracy, &Part)| {
        let Spread { mean, sd } = of(a);
        format!("{},{},{},{}\n", a.name, part.to_lowercase(), cell(mean), cell(sd))
    };
    let rows: String = all.iter().flat_map(|a| PARTS.iter().map(move |p| line((a, p)))).collect();
    format!("network,part,accuracy_mean_percent,accuracy_sd_percent\n{rows}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the paper's table.
    #[test]
    fn table_s1() {
        let of = |mean, sd| Spread { mean: Some(mean), sd: Some(sd) };
        let five = Spread { sd: None, ..of(71.71, 0.0) };
        let all = [
            Accuracy { name: "9-FER".into(), train: of(73.41, 5.2), test: of(53.75, 1.22) },
            Accuracy { name: "5-FER".into(), train: of(88.51, 3.16), test: five },
        ];
        assert_eq!(text(&all).lines().last(), Some("Test          53.75  1.22      71.71     -"));
        assert_eq!(
            markdown(&all),
            "| Accuracy | 9-FER M % | SD | 5-FER M % | SD |\n| :-- | --: | --: | --: | --: |\n\
             | Train | 73.41 | 5.20 | 88.51 | 3.16 |\n| Test | 53.75 | 1.22 | 71.71 | - |\n"
        );
        assert_eq!(
            latex(&all),
            "\\begin{tabular}{lrrrr}\n\\hline\n & \\multicolumn{2}{c}{9-FER Model} & \\multicolumn{2}{c}{5-FER Model} \\\\\n \
             & M & SD & M & SD \\\\\n\\hline\nTrain & 73.41\\% & 5.20 & 88.51\\% & 3.16 \\\\\n\
             Test & 53.75\\% & 1.22 & 71.71\\% & - \\\\\n\\hline\n\\end{tabular}\n"
        );
        assert_eq!(
            csv(&all),
            "network,part,accuracy_mean_percent,accuracy_sd_percent\n9-FER,train,73.41,5.2\n9-FER,test,53.75,1.22\n\
             5-FER,train,88.51,3.16\n5-FER,test,71.71,\n"
        );
    }
}
