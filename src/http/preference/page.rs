//! The page on which people vote: plain HTML, without scripts.

use crate::app::preference::{Ballot, BallotPair};
use crate::domain::id::ImageId;

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222}\
    .row{display:flex;gap:.5rem;flex-wrap:wrap}.photos img{width:6rem;height:6rem;object-fit:cover}\
    .pair img{width:20rem;max-width:45vw;image-rendering:auto}fieldset{margin:1rem 0;border:1px solid #ccc}\
    label{margin-right:2rem}button{font:inherit;padding:.4rem 1.2rem}";

/// The path of a link's page.
pub(super) fn path(token: &str) -> String {
    format!("/votes/{token}")
}

/// The next pair, or thanks.
pub(super) fn html(ballot: &Ballot) -> String {
    let content = match &ballot.next {
        Some(pair) => form(ballot, pair),
        None => format!("<h1>Thank you</h1><p>You have voted on all {} pairs.</p>", ballot.total),
    };
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Which image is better?</title>\
         <style>{STYLE}</style></head><body>{content}</body></html>\n"
    )
}

fn form(ballot: &Ballot, pair: &BallotPair) -> String {
    let photos: String = ballot
        .photos
        .iter()
        .map(|photo| image(&ballot.token, *photo, "a photo of the thing"))
        .collect();
    format!(
        "<p>Pair {} of {}</p><h1>Which image is better?</h1>\
         <p>The thing, in photos:</p><div class=\"row photos\">{photos}</div>\
         <p>The text: <strong>{}</strong></p>\
         <div class=\"row pair\">{}{}</div>\
         <form method=\"post\" action=\"{}\"><input type=\"hidden\" name=\"pair\" value=\"{}\">\
         {}{}<button>Next</button></form>",
        ballot.voted + 1,
        ballot.total,
        escaped(&pair.prompt),
        image(&ballot.token, pair.left, "the left image"),
        image(&ballot.token, pair.right, "the right image"),
        path(&ballot.token),
        pair.pair,
        question("text", "Which image fits the text better?"),
        question("image", "Which image shows the thing of the photos better?"),
    )
}

fn question(name: &str, text: &str) -> String {
    let answer = |value: &str| {
        format!(
            "<label><input type=\"radio\" name=\"{name}\" value=\"{value}\" required> {value}</label>"
        )
    };
    format!("<fieldset><legend>{text}</legend>{}{}</fieldset>", answer("left"), answer("right"))
}

fn image(token: &str, id: ImageId, alt: &str) -> String {
    // The link is what shows them: whoever votes has no key.
    format!("<img src=\"{}/images/{id}\" alt=\"{alt}\">", path(token))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_text_and_not_markup() {
        let ballot = Ballot {
            token: "t".to_owned(),
            photos: vec![ImageId::generate()],
            voted: 0,
            total: 2,
            next: Some(BallotPair {
                pair: 0,
                prompt: "<script>alert(1)</script>".to_owned(),
                left: ImageId::generate(),
                right: ImageId::generate(),
            }),
        };

        let page = html(&ballot);

        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        assert!(page.contains("Pair 1 of 2") && page.matches("required").count() == 4);
    }
}
