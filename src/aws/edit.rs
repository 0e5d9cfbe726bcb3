//! The lossless edit: one element of a distribution's configuration changes, every other byte
//! stays.
//!
//! `UpdateDistribution` replaces the whole configuration. A typed read and write through an SDK
//! drops every element that the SDK's version does not know, and would so erase newer settings
//! from a production distribution. Here the XML that was read is what is written.
//!
//! **Guarantees.** The result differs from the input only inside the one element, which must be a
//! direct child of `DistributionConfig`, occur once, and hold the expected text. Anything else is
//! refused: a document that is not well-formed, one with a DTD, one with another root.

use std::ops::Range;

use roxmltree::{Document, Node};
use xml::reader::ParserConfig;

/// The root element of what `GetDistributionConfig` returns and `UpdateDistribution` takes.
const ROOT: &str = "DistributionConfig";

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The one element to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit<'a> {
    /// A direct child of `DistributionConfig`.
    pub element: &'static str,
    /// The text it must hold now, white space around it aside.
    pub from: &'a str,
    /// The text it shall hold.
    pub to: &'static str,
}

impl<'a> Edit<'a> {
    /// Detaches the policy: an explicit empty element. Leaving the element out would be accepted
    /// and change nothing.
    #[must_use]
    pub fn detach(policy_id: &'a str) -> Self {
        Self {
            element: "ContinuousDeploymentPolicyId",
            from: policy_id,
            to: "",
        }
    }

    /// Disables the distribution.
    #[must_use]
    pub fn disable() -> Self {
        Self {
            element: "Enabled",
            from: "true",
            to: "false",
        }
    }
}

/// Why a configuration cannot be edited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// Not well-formed XML.
    #[error("the configuration is not well-formed XML")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Well-formed, but no distribution configuration.
    #[error("the configuration is not one DistributionConfig document: {0}")]
    NotAConfiguration(&'static str),
    /// The element is missing.
    #[error("the configuration has no {0}")]
    Missing(&'static str),
    /// The element occurs twice: which one counts is not ours to guess.
    #[error("the configuration has more than one {0}")]
    Repeated(&'static str),
    /// The element does not hold what was decided upon.
    #[error("the configuration's {element} is not {expected:?}")]
    Wrong {
        element: &'static str,
        /// What it should hold.
        expected: String,
    },
}

/// Changes one element of `xml`.
///
/// # Errors
/// [`EditError`] when the document is not a well-formed `DistributionConfig`, or the element is not
/// there exactly once with the expected text. Nothing is guessed.
pub fn apply(xml: &str, edit: Edit<'_>) -> Result<String, EditError> {
    // The parser skips one byte order mark; whether it counts it is not ours to guess.
    let (mark, text) = match xml.strip_prefix(BYTE_ORDER_MARK) {
        Some(text) => (BYTE_ORDER_MARK, text),
        None => ("", xml),
    };
    if text.starts_with(BYTE_ORDER_MARK) {
        return Err(EditError::NotAConfiguration("it has two byte order marks"));
    }
    let document = Document::parse(text).map_err(|error| EditError::Malformed(error.into()))?;
    // That one tells places, and is lenient here and there; this one is strict.
    let strict = ParserConfig::new().allow_multiple_root_elements(false);
    let reader = strict.create_reader(text.as_bytes());
    if let Some(error) = reader.into_iter().find_map(Result::err) {
        return Err(EditError::Malformed(error.into()));
    }
    let content = content(the_one(&document, edit.element)?)?;
    let held = &text[content.clone()];
    if held.contains(['<', '&']) {
        return Err(EditError::NotAConfiguration(
            "a leaf element holds more than text",
        ));
    }
    if held.trim() != edit.from {
        return Err(EditError::Wrong {
            element: edit.element,
            expected: edit.from.to_owned(),
        });
    }
    Ok([mark, &text[..content.start], edit.to, &text[content.end..]].concat())
}

/// The one direct child of the root that has this name, in the root's namespace.
fn the_one<'a>(
    document: &'a Document<'_>,
    element: &'static str,
) -> Result<Node<'a, 'a>, EditError> {
    let root = document.root_element();
    if root.tag_name().name() != ROOT {
        return Err(EditError::NotAConfiguration("its root is another element"));
    }
    let mut named = root.children().filter(|child| {
        let tag = child.tag_name();
        tag.name() == element && tag.namespace() == root.tag_name().namespace()
    });
    let found = named.next().ok_or(EditError::Missing(element))?;
    if named.next().is_some() {
        return Err(EditError::Repeated(element));
    }
    Ok(found)
}

/// The bytes between the start tag and the end tag of a leaf; none for one that is empty.
fn content(leaf: Node<'_, '_>) -> Result<Range<usize>, EditError> {
    let Some(text) = leaf.first_child() else {
        let end = leaf.range().end;
        return Ok(end..end);
    };
    let source = leaf.document().input_text();
    let range = text.range();
    // Neither a child element, nor a comment, nor the inside of a CDATA section.
    let fills_the_leaf = text.is_text()
        && source[..range.start].ends_with('>')
        && source[range.end..].starts_with("</");
    if fills_the_leaf {
        Ok(range)
    } else {
        Err(EditError::NotAConfiguration(
            "a leaf element holds more than text",
        ))
    }
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
