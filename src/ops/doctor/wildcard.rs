//! Texts with wildcards, as AWS writes them. Pure: no I/O.

/// Whether `*` in `pattern`, for anything, makes it `text`: EventBridge's `wildcard`.
#[must_use]
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    matches(pattern, text, None)
}

/// Whether `*` for anything and `?` for one character make `pattern` into `text`: IAM's wildcards.
#[must_use]
pub(crate) fn fits_iam(pattern: &str, text: &str) -> bool {
    matches(pattern, text, Some('?'))
}

/// `one` is what stands for one character.
fn matches(pattern: &str, text: &str, one: Option<char>) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // The last `*`, and where what it stands for ends.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let next = pattern.get(p).copied();
        if next == Some('*') {
            star = Some((p, t));
            p += 1;
        } else if next.is_some() && (next == one || next == Some(text[t])) {
            p += 1;
            t += 1;
        } else if let Some((at, end)) = star {
            star = Some((at, end + 1));
            (p, t) = (at + 1, end + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|it| *it == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_anything_and_a_mark_for_one_where_it_is_one() {
        assert!(fits("a*b*c", "a-b-b-c") && !fits("a*b*c", "a-c-b"));
        assert!(fits("*", "") && !fits("ab*b", "ab"));
        assert!(fits_iam("a?c*", "abc") && !fits_iam("a?c", "ac"));
        assert!(fits("a?c", "a?c") && !fits("a?c", "abc"));
    }
}
