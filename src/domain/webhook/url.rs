//! The URL of a receiver: which ones are taken, by what stands in them.

use std::net::IpAddr;

use url::{Host, Url};

use super::address::is_public;

/// The most characters of a URL.
pub const MAX_URL_CHARS: usize = 2048;
/// The ports of receivers.
const PORTS: [u16; 2] = [443, 8443];
/// Names that lead to this machine or a private network, whatever is resolved.
const PRIVATE_NAMES: [&str; 7] =
    ["localhost", "local", "internal", "intranet", "lan", "home.arpa", "localdomain"];

/// Which receivers are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Receivers {
    /// Public addresses by https, on port 443 or 8443.
    #[default]
    Public,
    /// Any, also by http: for tests, and for services whose users are trusted.
    Any,
}

impl Receivers {
    /// Whether a receiver may have this address.
    pub fn allow(self, address: IpAddr) -> bool {
        match self {
            Self::Public => is_public(address),
            Self::Any => true,
        }
    }
}

/// Checks a URL, and returns it as it is stored.
///
/// A host that is written as a number, in whatever way (decimal, hexadecimal, short, mapped), never asks a resolver, so it
/// is compared here. Names are compared when they are resolved.
///
/// # Errors
/// A sentence that says what to send instead.
pub fn check(text: &str, receivers: Receivers) -> Result<Url, String> {
    let count = text.chars().count();
    if count > MAX_URL_CHARS {
        return Err(format!("the URL has {count} characters: at most {MAX_URL_CHARS} are taken"));
    }
    // A browser would remove these. Whoever compares the texts should see the same URL as whoever calls it.
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("the URL has a space, a control character or a backslash: encode it".to_owned());
    }
    let url = Url::parse(text).map_err(|error| {
        format!("this is no URL ({error}): send one like https://example.com/hook")
    })?;
    let schemes: &[&str] = match receivers {
        Receivers::Public => &["https"],
        Receivers::Any => &["https", "http"],
    };
    if !schemes.contains(&url.scheme()) {
        return Err(format!("the scheme `{}` is not taken: use https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL has a user name or a password: leave them out, deliveries are signed"
            .to_owned());
    }
    if url.fragment().is_some() {
        return Err("the URL has a fragment, which is never sent: leave out `#` and what follows"
            .to_owned());
    }
    let host = url.host().ok_or("the URL has no host: send one like https://example.com/hook")?;
    if receivers == Receivers::Public {
        let port = url.port_or_known_default().unwrap_or(0);
        if !PORTS.contains(&port) {
            return Err(format!("port {port} is not taken: use 443 or 8443"));
        }
        check_host(&host)?;
    }
    Ok(url)
}

fn check_host(host: &Host<&str>) -> Result<(), String> {
    let not_public = |host: &dyn std::fmt::Display| {
        Err(format!(
            "{host} is not a public address: use a host that can be reached from the internet"
        ))
    };
    match host {
        Host::Ipv4(address) if !is_public((*address).into()) => not_public(address),
        Host::Ipv6(address) if !is_public((*address).into()) => not_public(address),
        Host::Ipv4(_) | Host::Ipv6(_) => Ok(()),
        Host::Domain(name) if name.ends_with('.') => {
            Err(format!("the host `{name}` ends with a dot: leave the dot out"))
        }
        Host::Domain(name) => {
            let is_private = PRIVATE_NAMES.iter().any(|private| {
                name.strip_suffix(private)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            });
            match is_private || !name.contains('.') {
                true => not_public(name),
                false => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_spelling_and_private_names_are_refused() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8443",
            "127.1",
            "127.0.0.1.",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "017700000001",
            "0177.0.0.1",
            "0",
            "0.0.0.0",
            "169.254.169.254",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fd00::1]",
            "10.0.0.7",
            "100.64.1.1",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "metadata.google.internal",
            "printer.local",
            "router",
            "example.com.",
            "１２７.0.0.1",
            "⑫7.0.0.1",
        ] {
            assert!(check(&format!("https://{host}/hook"), Receivers::Public).is_err(), "{host}");
        }
    }

    #[test]
    fn only_plain_https_is_taken() {
        for text in [
            "http://example.com/",
            "ftp://example.com/",
            "https://example.com:80/",
            "https://example.com:5432/",
            "https://a:b@example.com/",
            "https://a@example.com/",
            "https://example.com/#x",
            "https:///",
            "example.com/hook",
            "https://exa mple.com/",
            "https://example.com\\@127.0.0.1/",
            "file:///etc/passwd",
            "",
            "https://[::1",
            "https://8.8.8.8:22/",
        ] {
            assert!(check(text, Receivers::Public).is_err(), "{text}");
        }
        let long = format!("https://example.com/{}", "a".repeat(2048));
        assert!(check(&long, Receivers::Public).is_err());
        for text in [
            "https://example.com/hook?a=b",
            "https://example.com:8443/",
            "https://8.8.8.8/",
            "https://xn--bcher-kva.example/",
        ] {
            assert!(check(text, Receivers::Public).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_service_that_trusts_its_users_sends_anywhere() {
        assert!(check("http://127.0.0.1:9000/hook", Receivers::Any).is_ok());
        assert!(check("gopher://127.0.0.1/", Receivers::Any).is_err());
        assert!(
            Receivers::Any.allow([127, 0, 0, 1].into())
                && !Receivers::Public.allow([127, 0, 0, 1].into())
        );
    }
}
