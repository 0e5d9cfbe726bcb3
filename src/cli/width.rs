//! How wide standard output is, and text that fits it.

/// Where standard output is no terminal, which would say.
pub(super) const COLUMNS: usize = 80;

/// A narrower terminal is not honoured: nothing would fit.
const LEAST: usize = 40;

/// A column of values that begins further to the right is no place to go on.
const HANGING: usize = 30;

/// What a verb takes that writes long lines or tables.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Width {
    /// Do not wrap lines at the terminal's width (80 columns where there is no terminal).
    #[arg(long)]
    wide: bool,
}

impl Width {
    /// How many columns a line may have.
    pub(super) fn columns(self) -> usize {
        match self.wide {
            true => usize::MAX,
            false => of_terminal().unwrap_or(COLUMNS).max(LEAST),
        }
    }

    /// The text, wrapped.
    pub(super) fn fit(self, text: &str) -> String {
        fit(text, self.columns())
    }
}

/// The terminal's width, where standard output is one.
pub(super) fn of_terminal() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// The text with no line longer than so many columns, unless a single word is. A line goes on below the
/// value that it has after its label.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        match width(line) > columns {
            true => wrap(line, columns, &mut out),
            false => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// How many columns a text takes, without the escape sequences of colours.
pub(super) fn width(text: &str) -> usize {
    let mut in_sequence = false;
    let shown = text.chars().filter(|&c| {
        let shown = !in_sequence && c != '\x1b';
        in_sequence = (in_sequence || c == '\x1b') && c != 'm';
        shown
    });
    shown.count()
}

fn wrap(line: &str, columns: usize, out: &mut String) {
    let indent = hanging(line);
    let mut at = 0;
    for (index, word) in line.split(' ').enumerate() {
        let wide = width(word);
        // What stands before the indent stays in its line.
        if index > 0 && at > indent && at + 1 + wide > columns && wide > 0 {
            let trimmed = out.trim_end_matches(' ').len();
            out.truncate(trimmed);
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            at = indent;
        } else if index > 0 {
            out.push(' ');
            at += 1;
        }
        out.push_str(word);
        at += wide;
    }
}

/// The column at which a line's value begins: after its label and at least two spaces.
fn hanging(line: &str) -> usize {
    let mut in_sequence = false;
    let (mut column, mut spaces, mut label) = (0, 0, false);
    let mut leading = 0;
    for c in line.chars() {
        if in_sequence || c == '\x1b' {
            in_sequence = c != 'm';
            continue;
        }
        if c == ' ' {
            spaces += 1;
        } else {
            if label && spaces >= 2 && column <= HANGING {
                return column;
            }
            if !label {
                leading = column;
                label = true;
            }
            spaces = 0;
        }
        column += 1;
    }
    leading + 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_goes_on_below_its_value_and_no_word_is_broken() {
        let text = "  staging               EDCQ  one two three four five six seven eight nine ten\n\
                    short\n";
        let said = fit(text, 50);
        let lines: Vec<&str> = said.lines().collect();
        let below = " ".repeat(24);
        assert_eq!(lines[0], "  staging               EDCQ  one two three four");
        assert_eq!(lines[1], format!("{below}five six seven eight nine"));
        assert_eq!(lines[2..], [&*format!("{below}ten"), "short"]);
        let word = "x".repeat(60);
        assert_eq!(fit(&word, 50), format!("{word}\n"));
        // Colours take no room.
        let painted = format!("\x1b[1m{}\x1b[0m end", "x".repeat(46));
        assert_eq!(fit(&painted, 50), format!("{painted}\n"));
        let step = "     wait until the detach has propagated, which usually takes minutes";
        assert!(fit(step, 50).lines().all(|line| line.len() <= 50));
        assert_eq!(fit(step, usize::MAX), format!("{step}\n"));
    }
}
