//! The lossless edit: one element of a distribution's configuration changes, every other byte
//! stays.
//!
//! `UpdateDistribution` replaces the whole configuration. A typed read and write through an SDK
//! drops every element that the SDK's version does not know, and would so erase newer settings
//! from a production distribution. Here the XML that was read is what is written.
//!
//! **Guarantees.** The result differs from the input only inside the one element, which must be a
//! direct child of `DistributionConfig`, occur once, and hold the expected text. Anything else is
//! refused: a malformed document, one with a DTD, another root, a second root.

use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::Event;

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
    Malformed(#[source] quick_xml::Error),
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
        /// The element.
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
    // The reader skips a byte order mark without counting it.
    let (mark, document) = match xml.strip_prefix(BYTE_ORDER_MARK) {
        Some(document) => (BYTE_ORDER_MARK, document),
        None => ("", xml),
    };
    let found = locate(document, edit.element)?;
    if document.get(found.content.clone()) != Some(&*found.text) {
        return Err(EditError::NotAConfiguration("its places cannot be told"));
    }
    if found.text.trim() != edit.from {
        return Err(EditError::Wrong {
            element: edit.element,
            expected: edit.from.to_owned(),
        });
    }
    let mut edited = String::with_capacity(xml.len() + edit.to.len());
    edited.push_str(mark);
    edited.push_str(&document[..found.content.start]);
    edited.push_str(edit.to);
    edited.push_str(&document[found.content.end..]);
    Ok(edited)
}

struct Found {
    /// The bytes between the start tag and the end tag.
    content: Range<usize>,
    text: String,
}

fn locate(xml: &str, element: &'static str) -> Result<Found, EditError> {
    let mut reader = Reader::from_str(xml);
    let config = reader.config_mut();
    config.check_comments = true;
    config.allow_unmatched_ends = false;

    let position =
        |reader: &Reader<&[u8]>| usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
    let mut depth = 0_usize;
    let mut seen_root = false;
    let mut content_start = None;
    let mut text = String::new();
    let mut found: Option<Found> = None;

    loop {
        let before = position(&reader);
        match reader.read_event().map_err(EditError::Malformed)? {
            Event::Start(tag) => {
                for attribute in tag.attributes() {
                    attribute.map_err(|error| EditError::Malformed(error.into()))?;
                }
                if depth == 0 {
                    if seen_root {
                        return Err(EditError::NotAConfiguration("it has a second root"));
                    }
                    if tag.name().as_ref() != ROOT {
                        return Err(EditError::NotAConfiguration("its root is another element"));
                    }
                    seen_root = true;
                } else if depth == 1 && tag.name().as_ref() == element {
                    if found.is_some() {
                        return Err(EditError::Repeated(element));
                    }
                    content_start = Some(position(&reader));
                    text.clear();
                } else if content_start.is_some() {
                    return Err(EditError::NotAConfiguration("a leaf element has children"));
                }
                depth += 1;
            }
            Event::End(_) => {
                depth -= 1;
                if depth == 1
                    && let Some(start) = content_start.take()
                {
                    found = Some(Found {
                        content: start..before,
                        text: std::mem::take(&mut text),
                    });
                }
            }
            Event::Empty(tag) => {
                for attribute in tag.attributes() {
                    attribute.map_err(|error| EditError::Malformed(error.into()))?;
                }
                if depth == 0 {
                    return Err(EditError::NotAConfiguration("its root is empty"));
                }
                if depth == 1 && tag.name().as_ref() == element {
                    // `<Enabled/>`: holds no text, so it never holds what an edit expects.
                    return Err(EditError::Missing(element));
                }
                if content_start.is_some() {
                    return Err(EditError::NotAConfiguration("a leaf element has children"));
                }
            }
            Event::Text(part) => {
                if depth == 0 && !part.trim().is_empty() {
                    return Err(EditError::NotAConfiguration("it has text outside its root"));
                }
                if content_start.is_some() {
                    text.push_str(&part);
                }
            }
            Event::CData(_) | Event::GeneralRef(_) | Event::Comment(_) | Event::PI(_)
                if content_start.is_some() =>
            {
                return Err(EditError::NotAConfiguration(
                    "a leaf element holds more than text",
                ));
            }
            Event::CData(_) | Event::GeneralRef(_) if depth == 0 => {
                return Err(EditError::NotAConfiguration("it has text outside its root"));
            }
            Event::DocType(_) => return Err(EditError::NotAConfiguration("it has a DTD")),
            Event::Eof if depth > 0 => {
                return Err(EditError::NotAConfiguration("it ends in the middle"));
            }
            Event::Eof => break,
            Event::Decl(_)
            | Event::Comment(_)
            | Event::PI(_)
            | Event::CData(_)
            | Event::GeneralRef(_) => {}
        }
    }
    if !seen_root {
        return Err(EditError::NotAConfiguration("it is empty"));
    }
    found.ok_or(EditError::Missing(element))
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
