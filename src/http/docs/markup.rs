//! The markup of descriptions as HTML: paragraphs, lists, `code` and blocks of code.

/// Text in which HTML has no special characters.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One line of text.
pub(super) fn inline(text: &str) -> String {
    let mut html = String::new();
    for (index, piece) in text.split('`').enumerate() {
        if index % 2 == 1 {
            html.push_str(&format!("<code>{}</code>", escaped(piece)));
        } else {
            html.push_str(&escaped(piece));
        }
    }
    html
}

/// Several paragraphs.
pub(super) fn blocks(text: &str) -> String {
    let mut html = String::new();
    for (index, piece) in text.split("```").enumerate() {
        if index % 2 == 1 {
            let code = piece.split_once('\n').map_or(piece, |(_language, code)| code);
            html.push_str(&format!("<pre>{}</pre>", escaped(code.trim_end())));
        } else {
            paragraphs(piece, &mut html);
        }
    }
    html
}

fn paragraphs(text: &str, html: &mut String) {
    let mut in_list = false;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let item = line.strip_prefix("- ");
        if item.is_some() != in_list {
            html.push_str(if in_list { "</ul>" } else { "<ul>" });
            in_list = !in_list;
        }
        match item {
            Some(item) => html.push_str(&format!("<li>{}</li>", inline(item))),
            None => html.push_str(&format!("<p>{}</p>", inline(line))),
        }
    }
    if in_list {
        html.push_str("</ul>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_cannot_bring_in_html() {
        assert_eq!(inline("`<rex>` & <b>"), "<code>&lt;rex&gt;</code> &amp; &lt;b&gt;");
        assert_eq!(
            blocks("a\n- b\n- `c`\n\nd"),
            "<p>a</p><ul><li>b</li><li><code>c</code></li></ul><p>d</p>"
        );
        assert_eq!(blocks("```sh\nx < y\n```"), "<pre>x &lt; y</pre>");
    }
}
