//! What is not ours to trust, made fit to be shown. Pure.

/// What is not ours to trust may hold control characters, or ones that turn the direction of writing:
/// neither is obeyed.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || turns(c) { ' ' } else { c })
        .collect()
}

/// Unicode's characters that reorder what stands around them.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
