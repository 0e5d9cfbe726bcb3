//! CloudFront configurations as the bytes that were put.
//!
//! A configuration is kept as its very text; a [`Document`] beside it knows where each element
//! lies. Rules look at the few elements they need, and what has to be changed is spliced in.
//! So an element that nobody here knows survives, and a client that loses it is caught.

use std::ops::Range;

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;

use crate::wire::exchange::Failure;

/// The XML namespace of API version 2020-05-31.
pub(crate) const NAMESPACE: &str = "http://cloudfront.amazonaws.com/doc/2020-05-31/";

/// Where every path of this version starts.
pub(crate) const PREFIX: &str = "/2020-05-31/";

/// How deep a document may nest; real configurations stay below ten.
const MAX_DEPTH: usize = 64;

/// One element of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    /// Character data directly inside, with entities resolved.
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
    /// From `<` of the opening tag to `>` of the closing one.
    span: Range<usize>,
    /// The length of the opening tag.
    opening: usize,
    namespace: Option<String>,
}

impl Element {
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of a child, without surrounding white space.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim())
    }

    /// `Quantity` and the texts of `Items` of a list such as `Aliases`.
    pub(crate) fn items(&self, list: &str) -> (Option<usize>, Vec<String>) {
        let Some(list) = self.child(list) else {
            return (None, Vec::new());
        };
        let quantity = list.text_of("Quantity").and_then(|text| text.parse().ok());
        let items = list.child("Items").map_or_else(Vec::new, |items| {
            items
                .children
                .iter()
                .map(|item| item.text.trim().to_owned())
                .collect()
        });
        (quantity, items)
    }

    /// Names, order and text without insignificant white space: equal for equal meaning.
    fn canonical(&self, out: &mut String) {
        out.push('<');
        out.push_str(&self.name);
        out.push('>');
        if self.children.is_empty() {
            out.push_str(self.text.trim());
        }
        for child in &self.children {
            child.canonical(out);
        }
        out.push_str("</>");
    }
}

/// A well-formed XML text and where its elements lie.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    text: String,
    root: Element,
}

impl Document {
    /// Reads a document. The error says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let root = parse_root(text)?;
        Ok(Self {
            text: text.to_owned(),
            root,
        })
    }

    /// The bytes as they were put.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn root(&self) -> &Element {
        &self.root
    }

    /// Whether the root is of CloudFront's namespace.
    pub(crate) fn in_namespace(&self) -> bool {
        self.root.namespace.as_deref() == Some(NAMESPACE)
    }

    /// The text of one of the root's children.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.root.text_of(name)
    }

    /// Whether a child of the root reads `true`.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.text_of(name)
            .is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }

    /// One of the root's children with its tags, exactly as it stands.
    pub(crate) fn raw_of(&self, name: &str) -> Option<&str> {
        self.root
            .child(name)
            .map(|child| &self.text[child.span.clone()])
    }

    /// The text with a child of the root set to `value`; everything else stays byte for byte.
    pub(crate) fn with_text(&self, name: &str, value: &str) -> String {
        self.with_raw(name, Some(&format!("<{name}>{}</{name}>", escape(value))))
    }

    /// The text with a child of the root replaced, added at the end, or taken out.
    pub(crate) fn with_raw(&self, name: &str, raw: Option<&str>) -> String {
        let raw = raw.unwrap_or_default();
        let place = match self.root.child(name) {
            Some(child) => child.span.clone(),
            None => {
                let root = &self.text[self.root.span.clone()];
                let end = root
                    .rfind("</")
                    .map_or(self.root.span.end, |at| self.root.span.start + at);
                end..end
            }
        };
        format!(
            "{}{raw}{}",
            &self.text[..place.start],
            &self.text[place.end..]
        )
    }

    /// The root element for use inside another document: no prologue, no namespace of its own.
    pub(crate) fn embedded(&self) -> String {
        let inner = &self.text[self.root.span.start + self.root.opening..self.root.span.end];
        format!("<{}>{inner}", self.root.name)
    }

    /// Whether a child of the root means the same here and there.
    pub(crate) fn same_child(&self, other: &Self, name: &str) -> bool {
        let canonical = |document: &Self| {
            document.root.child(name).map(|child| {
                let mut out = String::new();
                child.canonical(&mut out);
                out
            })
        };
        canonical(self) == canonical(other)
    }

    /// Whether two documents mean the same, one of the root's children aside.
    pub(crate) fn same_but_for(&self, other: &Self, aside: &str) -> bool {
        let canonical = |document: &Self| {
            let mut out = String::with_capacity(document.text.len());
            for child in document
                .root
                .children
                .iter()
                .filter(|child| child.name != aside)
            {
                child.canonical(&mut out);
            }
            out
        };
        canonical(self) == canonical(other)
    }
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

fn parse_root(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    loop {
        let start = position(&reader);
        let event = reader.read_event().map_err(|error| error.to_string())?;
        let end = position(&reader);
        let closed = match event {
            Event::Eof => break,
            Event::Start(tag) if open.len() < MAX_DEPTH => {
                open.push(element(&tag, start..end));
                None
            }
            Event::Start(_) => return Err("nested too deeply".to_owned()),
            Event::Empty(tag) => Some(element(&tag, start..end)),
            Event::End(_) => open.pop().map(|mut done| {
                done.span.end = end;
                done
            }),
            Event::Text(text) => {
                if let Some(parent) = open.last_mut() {
                    parent.text.push_str(&text.xml10_content());
                }
                None
            }
            Event::CData(text) => {
                if let Some(parent) = open.last_mut() {
                    parent.text.push_str(&text.xml10_content());
                }
                None
            }
            Event::GeneralRef(reference) => {
                let entity = format!("&{};", &*reference.xml10_content());
                let resolved = quick_xml::escape::unescape(&entity).map_err(|it| it.to_string())?;
                if let Some(parent) = open.last_mut() {
                    parent.text.push_str(&resolved);
                }
                None
            }
            Event::DocType(_) => return Err("document type declarations are refused".to_owned()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => None,
        };
        if let Some(done) = closed {
            match open.last_mut() {
                Some(parent) => parent.children.push(done),
                None if root.is_none() => root = Some(done),
                None => return Err("more than one root element".to_owned()),
            }
        }
    }
    if !open.is_empty() {
        return Err("an element is not closed".to_owned());
    }
    root.ok_or_else(|| "no root element".to_owned())
}

fn element(tag: &quick_xml::events::BytesStart<'_>, span: Range<usize>) -> Element {
    let namespace = tag
        .attributes()
        .flatten()
        .find(|attribute| attribute.key.as_ref() == "xmlns")
        .map(|attribute| attribute.value.to_string());
    Element {
        name: tag.local_name().as_ref().to_owned(),
        text: String::new(),
        children: Vec::new(),
        opening: span.len(),
        span,
        namespace,
    }
}

/// A document that this world has written itself.
pub(crate) fn parsed(text: &str) -> Result<Document, Failure> {
    Document::parse(text.as_bytes()).map_err(|error| Failure::new(400, "MalformedXML", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "<?xml version=\"1.0\"?>\n<C xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\">\n  <A>x &amp; y</A>\n  <L><Quantity>2</Quantity><Items><I>p</I><I>q</I></Items></L>\n  <Unknown  odd='1'/>\n</C>\n";

    #[test]
    fn splices_one_element_and_keeps_every_other_byte() {
        let document = Document::parse(TEXT.as_bytes()).unwrap();
        assert!(document.in_namespace());
        assert_eq!(document.text_of("A"), Some("x & y"));
        assert_eq!(
            document.root().items("L"),
            (Some(2), vec!["p".to_owned(), "q".to_owned()])
        );
        assert_eq!(
            document.with_text("A", "<"),
            TEXT.replace("x &amp; y", "&lt;")
        );
        assert_eq!(
            document.with_text("New", ""),
            TEXT.replace("\n</C>", "\n<New></New></C>")
        );
        assert_eq!(
            document.with_raw("Unknown", None),
            TEXT.replace("<Unknown  odd='1'/>", "")
        );
        assert!(document.embedded().starts_with("<C>\n  <A>"));
    }

    #[test]
    fn refuses_what_is_no_document() {
        for bad in [
            "",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<!DOCTYPE a><a/>",
            "<a>&nope;</a>",
        ] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
