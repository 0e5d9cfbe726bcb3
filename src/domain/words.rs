//! Numbers of things, as people say them. Pure.

/// `1 target`, `2 targets`, `2 aliases`.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    let ending = match noun {
        _ if count == 1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        let said = [0, 1, 2].map(|count| counted(count, "step"));
        assert_eq!(said, ["0 steps", "1 step", "2 steps"]);
        assert_eq!(counted(2, "alias"), "2 aliases");
    }
}
