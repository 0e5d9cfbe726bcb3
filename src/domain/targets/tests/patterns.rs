//! Patterns: what they match, and that no two targets match the same approval.

use proptest::prelude::*;

use super::super::overlap::shortest_common;
use super::super::pattern::{Glob, Match, Piece};
use super::*;

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let targets = Targets::new(
        &[captured(
            "{service}-{env}-pipeline",
            "/{service}/{env}/production",
            "/{service}/{env}/staging",
        )],
        at_home(),
    )
    .unwrap();
    let resolve = |name| targets.resolve(&pipeline(name), "Approve", "Approve");
    assert!(resolve("shop-eu-pipeline").is_ok());
    assert_eq!(
        resolve("shop-a-eu-pipeline"),
        Err(ResolveError::Ambiguous(
            "{service}-{env}-pipeline".to_owned()
        ))
    );
}

#[test]
fn malformed_patterns_are_named() {
    use PatternError as E;
    let s = str::to_owned;
    for (written, error) in [
        ("", E::Empty),
        ("{a}{b}", E::Adjacent(s("a"), s("b"))),
        ("{a}-{a}", E::Duplicate(s("a"))),
        ("arn:aws:codepipeline:{a}:{b}:{a}", E::Duplicate(s("a"))),
        ("{a", E::Unbalanced),
        ("a}", E::Unbalanced),
        ("{a{b}}", E::Unbalanced),
        ("{}-x", E::CaptureName(s(""))),
        ("{1}-x", E::CaptureName(s("1"))),
        ("a b", E::Character(' ')),
        ("{a}:b", E::Character(':')),
        ("arn:aws:sqs:{r}:{a}:{b}", E::ArnForm),
        ("arn:aws:codepipeline:{r}:{a}:", E::ArnForm),
        ("arn:aws:codepipeline:{r}:1{a}:{b}", E::Account(s("1{a}"))),
        ("arn:aws:codepipeline::{a}:{b}", E::Region(s(""))),
    ] {
        let errors = Targets::new(&[spec(written)], at_home()).unwrap_err();
        assert_eq!(
            errors[0].problem,
            TargetProblem::Pattern(error),
            "{written}"
        );
    }
}

#[test]
fn overlapping_targets_name_both_and_show_an_example() {
    let arn = "arn:aws:codepipeline:eu-{zone}:{account}:web-{service}";
    assert_eq!(
        problems(&[spec("{service}-pipeline"), spec(arn), spec("web-{x}")]),
        [
            "targets[1].pipeline: overlaps targets[0] (\"{service}-pipeline\"): both match \
             pipeline \"arn:aws:codepipeline:eu-x:012345678901:web-pipeline\" at the same \
             stage and action",
            "targets[2].pipeline: overlaps targets[0] (\"{service}-pipeline\"): both match \
             pipeline \"web-pipeline\" at the same stage and action",
            "targets[2].pipeline: overlaps targets[1] \
             (\"arn:aws:codepipeline:eu-{zone}:{account}:web-{service}\"): both match pipeline \
             \"arn:aws:codepipeline:eu-x:012345678901:web-x\" at the same stage and action",
        ]
    );

    // A fault in what a target does hides no overlap of when it applies.
    let same = captured("web-{x}", "/web/staging", "/web/staging");
    assert_eq!(
        problems(&[same, spec("web-shop")]),
        [
            "targets[0].staging_parameter: is the same as production_parameter; the two name \
             different distributions",
            "targets[1].pipeline: overlaps targets[0] (\"web-{x}\"): both match pipeline \
             \"web-shop\" at the same stage and action",
        ]
    );

    let elsewhere = TargetSpec {
        stage: Some("Other".to_owned()),
        ..spec("{x}-pipeline")
    };
    let disjoint = "arn:aws:codepipeline:us-{zone}:{account}:web-{service}";
    assert!(Targets::new(&[spec("{service}-pipeline"), elsewhere], at_home()).is_ok());
    assert!(Targets::new(&[spec(arn), spec(disjoint)], at_home()).is_ok());
}

/// A pattern over a two-letter alphabet; literals stay short so that brute force stays complete.
fn glob() -> impl Strategy<Value = Glob> {
    (
        prop::option::of("[ab]{1,2}".prop_map(Piece::Literal)),
        prop::collection::vec("[ab]".prop_map(Piece::Literal), 0..3),
        any::<[bool; 2]>(),
    )
        .prop_map(|(first, between, [leading, trailing])| {
            // Captures and literals in turn, so that no two captures are adjacent.
            let mut pieces: Vec<Piece> = first.into_iter().collect();
            let capture = |n: usize| Piece::Capture(format!("c{n}"));
            if leading || pieces.is_empty() {
                pieces.push(capture(0));
            }
            for (n, literal) in between.into_iter().enumerate() {
                pieces.push(literal);
                if trailing {
                    pieces.push(capture(n + 1));
                }
            }
            Glob(pieces)
        })
}

/// Every text of 1 to `longest` letters.
fn texts(longest: u32) -> impl Iterator<Item = String> {
    (1..=longest).flat_map(|length| {
        (0..1_u32 << length).map(move |bits| {
            (0..length)
                .map(|at| if bits >> at & 1 == 0 { 'a' } else { 'b' })
                .collect()
        })
    })
}

/// The ways to share `text` out, by trying them all.
fn ways(pieces: &[Piece], text: &str) -> usize {
    match pieces {
        [] => usize::from(text.is_empty()),
        [Piece::Literal(literal), rest @ ..] => text
            .strip_prefix(literal.as_str())
            .map_or(0, |text| ways(rest, text)),
        [Piece::Capture(_), rest @ ..] => (1..=text.len())
            .map(|taken| ways(rest, &text[taken..]))
            .sum(),
    }
}

proptest! {
    #[test]
    fn overlap_agrees_with_brute_force(a in glob(), b in glob()) {
        // Ten letters are more than any two of these patterns need.
        let matching = |glob: &Glob, text: &str| glob.matches(text) != Match::No;
        let brute = texts(10).find(|text| matching(&a, text) && matching(&b, text));
        let found = shortest_common(&a, &b);
        prop_assert_eq!(
            found.as_ref().map(String::len),
            brute.as_ref().map(String::len),
            "{:?} {:?}", found, brute
        );
        if let Some(text) = found {
            prop_assert!(matching(&a, &text) && matching(&b, &text), "{}", text);
        }
    }

    #[test]
    fn matches_agree_with_every_way_of_sharing_out(glob in glob(), text in "[ab]{1,7}") {
        match glob.matches(&text) {
            Match::No => prop_assert_eq!(ways(&glob.0, &text), 0),
            Match::Ambiguous => prop_assert!(ways(&glob.0, &text) > 1),
            Match::Yes(captured) => {
                prop_assert_eq!(ways(&glob.0, &text), 1);
                let mut captured = captured.into_iter();
                let again: String = glob.0.iter().map(|piece| match piece {
                    Piece::Literal(literal) => literal.clone(),
                    Piece::Capture(_) => captured.next().unwrap().1,
                }).collect();
                prop_assert_eq!(again, text);
            }
        }
    }
}

#[test]
fn a_target_of_any_approval_overlaps_every_other_of_its_pipeline() {
    let alone = [
        program("batch", None, None),
        program("night", Some("Gate"), None),
        program("{x}-night", None, Some("Review")),
    ];
    assert!(Targets::new(&alone, at_home()).is_ok());
    for (one, other) in [
        (spec("batch"), program("{b}tch", None, None)),
        (program("batch", None, None), spec("batch")),
        (program("batch", Some("Approve"), None), spec("batch")),
        (
            program("batch", Some("Gate"), None),
            program("batch", None, Some("Review")),
        ),
    ] {
        let found = problems(&[one, other]);
        assert!(
            found.len() == 1 && found[0].contains("overlaps targets[0]"),
            "{found:?}"
        );
    }
    assert!(
        Targets::new(
            &[program("batch", Some("Gate"), None), spec("batch")],
            at_home()
        )
        .is_ok()
    );
}

#[test]
fn the_example_of_an_overlap_fits_both_where_one_of_them_is_literal() {
    let literal = "arn:aws:codepipeline:eu-west-1:012345678901:web";
    let captures = "arn:{p}:codepipeline:{r}:{a}:{service}";
    for pair in [[literal, captures], [captures, literal]] {
        let problem = problems(&pair.map(spec)).remove(0);
        assert!(
            problem.contains(&format!("pipeline {literal:?}")),
            "{problem}"
        );
    }
}

#[test]
fn captures_have_names_and_take_what_only_they_can() {
    let glob = |written: &str| Targets::new(&[spec(written)], at_home());
    assert!(glob("{my_service}-web").is_ok());
    let errors = glob("{my-service}-web").unwrap_err();
    let expected = PatternError::CaptureName("my-service".to_owned());
    assert_eq!(errors[0].problem, TargetProblem::Pattern(expected));

    // What follows the capture would match where the capture begins, too.
    let targets = Targets::new(
        &[captured("{a}b{c}", "/{a}/{c}/p", "/{a}/{c}/s")],
        at_home(),
    )
    .unwrap();
    let target = targets.resolve(&pipeline("bbc"), "Approve", "Approve");
    assert_eq!(target.unwrap().parameters.unwrap().staging, "/b/c/s");
}
