//! An oracle for edits: which one element of a configuration differs. It shares nothing with the
//! edit it judges.

/// Whether `new` is `old` with the text of its one top-level element `name` changed so, and not a
/// byte besides.
pub(crate) fn only_difference(
    old: &str,
    new: &str,
    name: &str,
    from: &str,
    to: &str,
) -> Result<(), String> {
    let span = top_level(old, name).ok_or_else(|| format!("there is no {name}"))?;
    if &old[span.clone()] != from {
        return Err(format!("{name} was {}", &old[span]));
    }
    let expected = format!("{}{to}{}", &old[..span.start], &old[span.end..]);
    if expected == new {
        Ok(())
    } else {
        Err(format!("more than {name} was changed"))
    }
}

/// Where the text of the root's child of that name is.
fn top_level(document: &str, name: &str) -> Option<std::ops::Range<usize>> {
    let mut depth = 0;
    let mut at = 0;
    while let Some(open) = document[at..].find('<').map(|found| at + found) {
        let close = open + document[open..].find('>')?;
        let tag = &document[open + 1..close];
        at = close + 1;
        if tag.starts_with('?') || tag.ends_with('/') {
            continue;
        }
        if tag.starts_with('/') {
            depth -= 1;
            continue;
        }
        depth += 1;
        if depth == 2 && tag.split_whitespace().next() == Some(name) {
            return Some(at..at + document[at..].find('<')?);
        }
    }
    None
}

#[test]
fn a_top_level_element_is_told_from_a_nested_one_of_its_name() {
    let old = "<?xml version=\"1.0\"?><A x=\"1\"><B><E>true</E></B><E>true</E><C/></A>";
    let new = "<?xml version=\"1.0\"?><A x=\"1\"><B><E>true</E></B><E>false</E><C/></A>";
    assert_eq!(only_difference(old, new, "E", "true", "false"), Ok(()));
    let nested = old.replacen("true", "false", 1);
    assert!(only_difference(old, &nested, "E", "true", "false").is_err());
    let lossy = new.replace("<C/>", "");
    assert!(only_difference(old, &lossy, "E", "true", "false").is_err());
    assert!(only_difference(new, old, "E", "true", "false").is_err());
}
