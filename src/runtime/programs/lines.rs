//! What a program writes, as lines of bounded length and number. Pure.

/// A longer line is cut there: a line of the log must stay below the 16 KB at which container log
/// drivers split it.
pub const MAX_LINE_BYTES: usize = 4096;

/// So many lines of one output are told; the others are counted.
pub const MAX_LINES: usize = 1000;

/// Bytes on their way to being lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    cut: bool,
    told: usize,
    dropped: usize,
}

impl Lines {
    /// Takes what was written; `tell` is given every line that ends in it.
    pub(super) fn push(&mut self, written: &[u8], mut tell: impl FnMut(&str)) {
        for part in written.split_inclusive(|&byte| byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = MAX_LINE_BYTES - self.line.len();
            self.line.extend(&text[..text.len().min(room)]);
            self.cut |= text.len() > room;
            if text.len() < part.len() {
                self.tell(&mut tell);
            }
        }
    }

    /// Takes the end: a last line without its newline is one, too.
    pub(super) fn end(mut self, mut tell: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.tell(&mut tell);
        }
        if self.dropped > 0 {
            tell(&format!("[{} more lines]", self.dropped));
        }
    }

    fn tell(&mut self, tell: &mut impl FnMut(&str)) {
        if self.told < MAX_LINES {
            self.told += 1;
            let line = String::from_utf8_lossy(&self.line);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if self.cut {
                tell(&format!("{line}…"));
            } else {
                tell(line);
            }
        } else {
            self.dropped += 1;
        }
        self.line.clear();
        self.cut = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut told) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |line| told.push(line.to_owned()));
        }
        lines.end(|line| told.push(line.to_owned()));
        told
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        let whole = b"one\r\ntwo\n\nlast";
        let expected = ["one", "two", "", "last"];
        assert_eq!(told(&[whole]), expected);
        for at in 0..whole.len() {
            assert_eq!(told(&[&whole[..at], &whole[at..]]), expected, "{at}");
        }
        assert!(told(&[]).is_empty());
    }

    #[test]
    fn too_much_is_cut_and_counted() {
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        let lines = told(&[&long[..], b"\nshort\n"]);
        assert_eq!(lines[0].trim_end_matches('…').len(), MAX_LINE_BYTES);
        assert!(lines[0].ends_with('…'));
        assert_eq!(lines[1], "short");
        let exact = told(&[&long[1..]]);
        assert!(!exact[0].ends_with('…'));

        let many = told(&[&b"x\n".repeat(MAX_LINES + 3)]);
        assert_eq!(many.len(), MAX_LINES + 1);
        assert_eq!(many[MAX_LINES], "[3 more lines]");
    }
}
