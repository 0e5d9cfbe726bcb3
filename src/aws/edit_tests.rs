use proptest::prelude::*;

use super::*;

/// A configuration of a version of the API that does not exist yet.
const FUTURE: &str = include_str!("../../tests/configurations/future.xml");

const POLICY: &str = "0c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f";

/// Either edit, and the element it needs.
fn edits() -> [(Edit<'static>, String); 2] {
    [
        (Edit::disable(), "<Enabled>true</Enabled>".to_owned()),
        (
            Edit::detach(POLICY),
            format!("<ContinuousDeploymentPolicyId>{POLICY}</ContinuousDeploymentPolicyId>"),
        ),
    ]
}

fn config(children: &str) -> String {
    format!("<DistributionConfig>{children}</DistributionConfig>")
}

#[test]
fn a_configuration_of_a_future_api_version_changes_in_one_element() {
    let detached = apply(FUTURE, Edit::detach(POLICY)).unwrap();
    let element = format!(">{POLICY}</ContinuousDeploymentPolicyId>");
    assert_eq!(FUTURE.matches(&element).count(), 1);
    assert_eq!(
        detached,
        FUTURE.replace(&element, "></ContinuousDeploymentPolicyId>")
    );
    let disabled = apply(FUTURE, Edit::disable()).unwrap();
    // Among many others, this one is a direct child.
    let own = "\n  <Enabled>true</Enabled>\n";
    assert_eq!(FUTURE.matches(own).count(), 1);
    assert_eq!(
        disabled,
        FUTURE.replace(own, "\n  <Enabled>false</Enabled>\n")
    );
}

#[test]
fn what_is_edited_once_is_not_edited_again() {
    for (edit, element) in edits() {
        let edited = apply(&config(&element), edit).unwrap();
        assert!(matches!(
            apply(&edited, edit),
            Err(EditError::Wrong { .. } | EditError::Missing(_))
        ));
    }
}

#[test]
fn the_elements_tag_and_its_attributes_stay() {
    let xml = config("<Enabled  a='1' >\n true </Enabled >");
    assert_eq!(
        apply(&xml, Edit::disable()).unwrap(),
        config("<Enabled  a='1' >false</Enabled >")
    );
}

#[test]
fn a_byte_order_mark_stays_and_moves_nothing() {
    let xml = config("<Enabled>true</Enabled>");
    let edited = apply(&format!("\u{feff}{xml}"), Edit::disable()).unwrap();
    assert_eq!(
        edited,
        format!("\u{feff}{}", config("<Enabled>false</Enabled>"))
    );
    assert!(apply(&format!("\u{feff}\u{feff}{xml}"), Edit::disable()).is_err());
}

#[test]
fn what_is_no_single_configuration_is_refused() {
    let own = "<Enabled>true</Enabled>";
    let mut taken = Vec::new();
    for xml in [
        String::new(),
        "   ".to_owned(),
        "no XML".to_owned(),
        format!("<!DOCTYPE DistributionConfig>{}", config(own)),
        format!(
            "<!DOCTYPE x [<!ENTITY e \"true\">]>{}",
            config("<Enabled>&e;</Enabled>")
        ),
        format!("{0}{0}", config(own)),
        format!("{}<More/>", config(own)),
        format!("{} text", config(own)),
        format!("text {}", config(own)),
        format!("&amp;{}", config(own)),
        format!("<![CDATA[x]]>{}", config(own)),
        own.to_owned(),
        format!("<Distribution>{}</Distribution>", config(own)),
        format!("<x:DistributionConfig>{own}</x:DistributionConfig>"),
        format!("<distributionconfig>{own}</distributionconfig>"),
        format!("<DistributionConfig>{own}</Other>"),
        format!("<DistributionConfig>{own}"),
        format!("</DistributionConfig>{}", config(own)),
        config(&format!("{own}<a></b>")),
        config(&format!("{own}<a x=1/>")),
        config(&format!("{own}<a x='1' x='2'/>")),
        config(&format!("{own}<!-- a -- b -->")),
        config(&format!("{own}<!-- a --->")),
        config(&format!("{own}<a> ]]> </a>")),
        config(&format!("{own}<a x='<'/>")),
        config(&format!("{own}<a x='&nothing;'/>")),
        config(&format!("{own}<a>&nothing;</a>")),
        config(&format!("{own}<a>& </a>")),
        config(&format!("{own}<a>&#0;</a>")),
        config(&format!("{own}<a>\u{1}</a>")),
        config(&format!("{own}<?xml version='1.0'?>")),
        config(&format!("{own}<?p/?>")),
        config(&format!("{own}<1/>")),
        config(&format!("{own}<a b:c='d'/>")),
        config(&format!("{own}<a b='c'd='e'/>")),
        format!(" <?xml version='1.0'?>{}", config(own)),
        format!("<?xml encoding='UTF-8'?>{}", config(own)),
        config("<Enabled><x/>true</Enabled>"),
        config("<Enabled><Enabled>true</Enabled></Enabled>"),
        config("<Enabled>true<!-- or not --></Enabled>"),
        config("<Enabled><![CDATA[true]]></Enabled>"),
        config("<Enabled>&#116;rue</Enabled>"),
        config("<Enabled>true<?pi?></Enabled>"),
    ] {
        let result = apply(&xml, Edit::disable());
        if !matches!(
            result,
            Err(EditError::Malformed(_) | EditError::NotAConfiguration(_))
        ) {
            taken.push((xml, result));
        }
    }
    assert!(taken.is_empty(), "{taken:#?}");
}

#[test]
fn the_element_must_be_there_once_and_hold_what_was_decided_upon() {
    for (edit, element) in edits() {
        for missing in [
            String::new(),
            format!("<Logging>{element}</Logging>"),
            format!("<!-- {element} -->"),
            format!("<![CDATA[{element}]]>"),
            element
                .replacen('<', "<x:", 1)
                .replacen('>', " xmlns:x='urn:x'>", 1)
                .replace("</", "</x:"),
            element.to_lowercase(),
        ] {
            let result = apply(&config(&missing), edit);
            assert!(matches!(result, Err(EditError::Missing(_))), "{missing}");
        }
        let empty = apply("<DistributionConfig/>", edit);
        assert!(matches!(empty, Err(EditError::Missing(_))));
        let repeated = config(&format!("{element}<Comment>c</Comment>{element}"));
        assert!(matches!(
            apply(&repeated, edit),
            Err(EditError::Repeated(name)) if name == edit.element
        ));
        let wrong = ["", " ", "another", "TRUE", "false"];
        let wrong = wrong.map(|wrong| element.replace(edit.from, wrong));
        for wrong in wrong.into_iter().chain([format!("<{}/>", edit.element)]) {
            let result = apply(&config(&wrong), edit);
            assert!(matches!(result, Err(EditError::Wrong { .. })), "{wrong}");
        }
    }
    let both = config("<Enabled>true</Enabled><Enabled/>");
    assert!(apply(&both, Edit::disable()).is_err());
    let both = config("<Enabled/><Enabled>true</Enabled>");
    assert!(apply(&both, Edit::disable()).is_err());
}

#[test]
fn a_document_cut_anywhere_is_refused() {
    let end = FUTURE.rfind("</DistributionConfig>").unwrap() + "</DistributionConfig>".len();
    for at in (0..end).filter(|at| FUTURE.is_char_boundary(*at)) {
        let result = apply(&FUTURE[..at], Edit::disable());
        assert!(result.is_err(), "cut at {at}");
    }
    assert!(apply(&FUTURE[..end], Edit::disable()).is_ok());
}

/// White space, comments and the like, as they may stand between elements.
fn between() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just(String::new()),
        2 => "[ \\n\\r\\t]{1,3}",
        1 => "[a-z <>&]{0,12}".prop_map(|text| format!("<!--{text}-->")),
        1 => "[a-z]{1,5}".prop_map(|text| format!("<?hint {text}?>")),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        // The elements that are edited, as they also occur deeper down.
        Just("Enabled".to_owned()),
        Just("ContinuousDeploymentPolicyId".to_owned()),
        Just("DistributionConfig".to_owned()),
        Just("Logging".to_owned()),
        "[A-Za-z_][A-Za-z0-9._-]{0,8}",
        "[a-zé]{1,3}[.-][A-Z][a-z]{0,4}",
    ]
}

fn attributes() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        1 => "[ \\n]?".prop_map(|space| space),
        1 => "[a-z é\"/>]{0,6}".prop_map(|value| format!(" mode='{value}'")),
        1 => Just(" xmlns:x=\"urn:x\"  x:y = \"a&amp;b\"".to_owned()),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just(POLICY.to_owned()),
        "[a-zé漢\\n >\"']{0,10}",
        Just("a &lt; b &amp;&#x41; c".to_owned()),
        Just("<![CDATA[<Enabled>true</Enabled> & ]]>".to_owned()),
    ]
}

/// Well-formed content of an element.
fn content() -> impl Strategy<Value = String> {
    text().prop_recursive(4, 24, 4, |inner| {
        let element = (name(), attributes(), inner, any::<bool>()).prop_map(
            |(name, attributes, inner, short)| {
                if short {
                    format!("<{name}{attributes}/>")
                } else {
                    format!("<{name}{attributes}>{inner}</{name} >")
                }
            },
        );
        proptest::collection::vec((between(), element), 0..4).prop_map(|parts| {
            parts
                .into_iter()
                .map(|(between, element)| between + &element)
                .collect()
        })
    })
}

/// Direct children of a configuration, none of which is one that is edited.
fn siblings() -> impl Strategy<Value = String> {
    let sibling = (name(), attributes(), content(), between()).prop_map(
        |(name, attributes, content, between)| {
            let name = match name.as_str() {
                "Enabled" | "ContinuousDeploymentPolicyId" => "Restrictions",
                name => name,
            };
            format!("<{name}{attributes}>{content}</{name}>{between}")
        },
    );
    proptest::collection::vec(sibling, 0..5).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn in_any_well_formed_configuration_one_element_changes_and_every_other_byte_stays(
        prolog in prop_oneof![
            Just(""),
            Just("\u{feff}"),
            Just("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"),
            Just("<?xml version='1.0'?><!-- c --> <?p i?>\r\n"),
        ],
        attributes in attributes(),
        before in siblings(),
        space in "[ \\n\\t\\r]{0,2}",
        after in siblings(),
        epilog in prop_oneof![Just(""), Just("\n"), Just("<!-- the end -->\n")],
    ) {
        for (edit, element) in edits() {
            let document = |text: &str| {
                format!(
                    "{prolog}<DistributionConfig{attributes}>{before}<{0}>{text}</{0}>{after}\
                     </DistributionConfig>{epilog}",
                    edit.element
                )
            };
            prop_assert!(document(edit.from).contains(&element));
            let held = format!("{space}{}{space}", edit.from);
            match apply(&document(&held), edit) {
                Ok(edited) => prop_assert_eq!(edited, document(edit.to)),
                Err(error) => prop_assert!(false, "{}: {:?}", document(&held), error),
            }
        }
    }

    #[test]
    fn arbitrary_text_never_panics_and_never_becomes_more_than_one_edit(
        text in "[<>/!?&;='\" a-zA-Z\\[\\]-]{0,80}",
        at in any::<prop::sample::Index>(),
    ) {
        let _ = apply(&text, Edit::disable());
        let mut at = at.index(FUTURE.len());
        while !FUTURE.is_char_boundary(at) {
            at -= 1;
        }
        let xml = format!("{}{text}{}", &FUTURE[..at], &FUTURE[at..]);
        if let Ok(edited) = apply(&xml, Edit::disable()) {
            let same = xml.bytes().zip(edited.bytes()).take_while(|(a, b)| a == b).count();
            let tail = xml.bytes().rev().zip(edited.bytes().rev()).take_while(|(a, b)| a == b).count();
            prop_assert!(xml.len() - same - tail.min(xml.len() - same) <= "true".len() + 80);
            prop_assert!(edited[same..].starts_with("false"), "{}", &edited[same..]);
        }
    }
}
