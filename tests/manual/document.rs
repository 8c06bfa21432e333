//! The manual as data: its shell blocks in order, with the lab that each belongs to.

/// What users have; `docs/field-manual.md` is a copy of it.
pub(crate) const MANUAL: &str = include_str!("../../docs/field-manual.md");
/// Of the original. Whoever changes the copy breaks somebody's habits, and must say so here.
pub(crate) const SHA256: &str = "1a0562e1a3afc0c988beb9fc10750ab8f571d4206bc4cb7774eed574cdac4809";

/// One fenced block, to the letter.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// A letter, or the number of a section that is no lab: `3`, `5`.
    pub(crate) lab: String,
    /// From 1, within the lab.
    pub(crate) number: usize,
    pub(crate) text: String,
}

impl Block {
    /// `K 2`
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.lab, self.number)
    }

    /// The last line, if it only asks: such a statement may be repeated while its effect is on its way.
    pub(crate) fn last_question(&self) -> &str {
        let last = self.text.trim_end().lines().next_back().unwrap_or_default();
        let asks = last.starts_with("curl -sS \"$BASE/") || last.starts_with("sql_app \"SELECT ");
        assert!(asks && !last.contains(" -X "), "not a question: {last}");
        last
    }
}

/// Every shell block of the manual.
pub(crate) fn blocks() -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut lab = String::new();
    let mut open: Option<String> = None;
    for line in MANUAL.lines() {
        match &mut open {
            Some(text) if line != "```" => {
                text.push_str(line);
                text.push('\n');
            }
            Some(_) => {
                let number = 1 + found.iter().filter(|block| block.lab == lab).count();
                let text = open.take().expect("a block is open");
                found.push(Block {
                    lab: lab.clone(),
                    number,
                    text,
                });
            }
            None if line == "```bash" => open = Some(String::new()),
            None => {
                if let Some(heading) = line.strip_prefix("## ") {
                    lab = lab_of(heading);
                }
            }
        }
    }
    found
}

/// `6) Lab A: Monolith Bring-Up` is lab `A`, `5) Reusable Shell Kit` is section `5`.
fn lab_of(heading: &str) -> String {
    let (number, title) = heading.split_once(") ").unwrap_or((heading, ""));
    let lab = title.strip_prefix("Lab ").and_then(|rest| rest.get(..1));
    lab.unwrap_or(number).to_owned()
}
