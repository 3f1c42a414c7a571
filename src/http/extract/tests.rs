//! What the extractors refuse, and in which words.

use serde::Deserialize;

use super::*;
use crate::domain::concept::{ConceptWords, Handle};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing is of interest")]
struct Outer {
    inner: Vec<Inner>,
    name: Option<String>,
    #[serde(default)]
    pace: Pace,
    #[schema(min_items = 2, max_items = 2)]
    span: Option<[f64; 2]>,
    #[schema(value_type = Option<String>)]
    id: Option<crate::domain::id::ConceptId>,
    method: Option<Method>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing is of interest")]
struct Inner {
    steps: usize,
    weight: f64,
    offset: Option<i32>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Pace {
    #[default]
    Slow,
    Fast,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case")]
#[expect(dead_code, reason = "only its parsing is of interest")]
enum Method {
    Soft { weight: f64 },
    Hard,
}

/// The pointers and codes of a refusal.
fn refused(body: &str) -> Vec<(String, Code)> {
    let error = from_json::<Outer>(body.as_bytes()).unwrap_err();
    match error.errors() {
        [] => vec![(String::new(), error.code())],
        errors => errors.iter().map(|error| (error.pointer.clone(), error.code)).collect(),
    }
}

fn said(body: &str) -> String {
    from_json::<Outer>(body.as_bytes()).unwrap_err().errors()[0].detail.clone()
}

#[test]
fn a_refusal_names_everything_that_is_wrong_with_the_form() {
    use Code::{InvalidValue, MalformedBody, MissingField, UnknownField};

    for (body, expected) in [
        (r#"{"inner":[{"steps":1,"weight":1}],"cfg_scale":7}"#, vec![("/cfg_scale", UnknownField)]),
        (
            r#"{"inner":[{"cfg":7},{"steps":1,"weight":2,"b/c":1}],"a":1}"#,
            vec![
                ("/a", UnknownField),
                ("/inner/0/cfg", UnknownField),
                ("/inner/0/steps", MissingField),
                ("/inner/0/weight", MissingField),
                ("/inner/1/b~1c", UnknownField),
            ],
        ),
        (r#"{"inner":[{"steps":-1,"weight":1}]}"#, vec![("/inner/0/steps", InvalidValue)]),
        (r#"{"inner":[{"steps":1.5,"weight":1}]}"#, vec![("/inner/0/steps", InvalidValue)]),
        (r#"{"inner":[null],"pace":5}"#, vec![("/inner/0", InvalidValue), ("/pace", InvalidValue)]),
        (r#"{"inner":null}"#, vec![("/inner", MissingField)]),
        (r#"{"inner":[],"span":[0,1,2]}"#, vec![("/span", InvalidValue)]),
        (r#"{"inner":[],"id":"trn_00000000000000000000000000"}"#, vec![("/id", InvalidValue)]),
        (r#"{"inner":[],"method":{"method":"firm"}}"#, vec![("/method/method", InvalidValue)]),
        (r#"{"inner":[],"method":{}}"#, vec![("/method/method", MissingField)]),
        (
            r#"{"inner":[],"method":{"method":"hard","weight":1}}"#,
            vec![("/method/weight", UnknownField)],
        ),
        (r#"{"inner":[],"name":"a","name":"b"}"#, vec![("/name", InvalidValue)]),
        (r#"{"inner":[{"steps":"#, vec![("", MalformedBody)]),
        (r#"{"inner":[]} trailing"#, vec![("", MalformedBody)]),
        ("", vec![("", MalformedBody)]),
        ("5", vec![("", InvalidValue)]),
        (r#"{"inner":[{},{"st\u0000eps":1}]}"#, vec![("/inner/1/steps", InvalidValue)]),
        (r#"{"inner":[],"name":"\u0000"}"#, vec![("/name", InvalidValue)]),
    ] {
        let mut refused = refused(body);
        refused.sort_by(|one, other| one.0.cmp(&other.0));
        let expected: Vec<_> =
            expected.into_iter().map(|(pointer, code)| (pointer.to_owned(), code)).collect();
        assert_eq!(refused, expected, "{body}");
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing is of interest")]
struct Named {
    handle: Handle,
    others: Vec<Handle>,
    words: ConceptWords,
    offset: Option<i32>,
}

#[test]
fn a_refusal_names_every_text_of_a_wrong_form() {
    let refused = |body: &str| -> Vec<String> {
        let error = from_json::<Named>(body.as_bytes()).unwrap_err();
        let mut pointers: Vec<_> =
            error.errors().iter().map(|error| error.pointer.clone()).collect();
        pointers.sort();
        pointers
    };

    for (body, expected) in [
        (
            r#"{"handle":"A","others":[],"words":{"modifier_token":"a","class_noun":""},"offset":9000000000}"#,
            vec!["/handle", "/offset", "/words/class_noun", "/words/modifier_token"],
        ),
        // Of a list, the first is named.
        (
            r#"{"handle":"a","others":["b","C","D"],"words":{"class_noun":"!"}}"#,
            vec!["/others/1", "/words/class_noun"],
        ),
        (r#"{"handle":"a","others":[],"words":{"class_noun":"!"}}"#, vec!["/words/class_noun"]),
        (
            r#"{"handle":"A","others":[],"words":{"class_noun":"!"}}"#,
            vec!["/handle", "/words/class_noun"],
        ),
    ] {
        assert_eq!(refused(body), expected, "{body}");
    }
}

#[test]
fn null_is_the_same_as_nothing_and_a_whole_number_may_have_a_point() {
    for body in [
        r#"{"inner":[],"name":null,"pace":null,"span":null,"method":null}"#,
        r#"{"inner":[{"steps":2.0,"weight":1,"offset":-2.0}],"name":"\\u0000"}"#,
        r#"{"inner":[],"span":[0,1],"method":{"method":"soft","weight":1}}"#,
    ] {
        from_json::<Outer>(body.as_bytes()).unwrap();
    }
}

#[test]
fn a_refusal_speaks_of_json_and_not_of_rust() {
    for (body, detail) in [
        (
            r#"{"inner":[{"steps":"many","weight":1}]}"#,
            "a whole number, not below 0, is expected here, not the text `many`",
        ),
        (r#"{"inner":[3]}"#, "an object is expected here, not the number 3"),
        (r#"{"inner":3}"#, "a list is expected here, not the number 3"),
        (
            r#"{"inner":[],"pace":"x"}"#,
            "one of the texts `slow`, `fast` is expected here, not the text `x`",
        ),
        (r#"{"inner":[],"span":[1]}"#, "a list of 2 values is expected here, not a list of 1"),
        (
            r#"{"inner":[{"steps":1,"weight":1,"offset":9000000000}]}"#,
            "invalid value: integer `9000000000`, expected a whole number from −2147483648 to 2147483647",
        ),
    ] {
        assert_eq!(said(body), detail, "{body}");
    }
}

#[test]
fn a_long_value_and_a_deep_one_are_refused_in_a_few_words() {
    let long = format!(r#"{{"inner":[],"pace":"{}"}}"#, "x".repeat(900_000));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));

    assert!(said(&long).len() < 300);
    assert_eq!(refused(&deep), vec![(String::new(), Code::MalformedBody)]);
}

#[derive(Debug, Deserialize, IntoParams)]
struct Filter {
    #[serde(default)]
    limit: i64,
    pace: Option<Pace>,
    all: Option<bool>,
    name: Option<String>,
}

#[test]
fn parameters_are_read_by_their_types_and_named_in_errors() {
    let read = |query| from_query::<Filter>(query);
    let errors = |query| {
        let Invalid(errors) = read(query).unwrap_err();
        errors.into_iter().map(|error| (error.pointer, error.code)).collect::<Vec<_>>()
    };

    let filter = read("limit=3&all=true&name=5&pace=fast&other=1").unwrap();

    assert_eq!((filter.limit, filter.all, filter.name.as_deref()), (3, Some(true), Some("5")));
    assert!(matches!(filter.pace, Some(Pace::Fast)));
    let invalid = |name: &str| (name.to_owned(), Code::InvalidValue);
    assert_eq!(errors("limit=x&all=yes"), [invalid("all"), invalid("limit")]);
    assert_eq!(errors("pace=swift"), [invalid("pace")]);
    assert_eq!(errors("name=a%00b"), [invalid("name")]);
}
