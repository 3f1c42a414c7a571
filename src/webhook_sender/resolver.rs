//! The resolver that receivers' names go through: it leaves out the addresses that nothing is sent to.
//!
//! A name is checked where it is resolved for the connection, not before: it may mean something else the second time it is
//! asked for. Hosts that are written as numbers never come here; [`check`](crate::domain::webhook::url::check) has them.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::domain::webhook::url::Receivers;

/// Resolves names to addresses that receivers may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuardedResolver(pub(super) Receivers);

/// A name that means only addresses that nothing is sent to.
#[derive(Debug, thiserror::Error)]
#[error("{name} has no public address, and webhooks are sent to public addresses only")]
pub(super) struct NotPublic {
    name: String,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let receivers = self.0;
        Box::pin(async move {
            // The port is replaced by that of the URL.
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = allowed(name.as_str(), found, receivers)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn allowed(
    name: &str,
    found: Vec<SocketAddr>,
    receivers: Receivers,
) -> Result<Vec<SocketAddr>, NotPublic> {
    let allowed: Vec<SocketAddr> =
        found.into_iter().filter(|address| receivers.allow(address.ip())).collect();
    match allowed.is_empty() {
        true => Err(NotPublic { name: name.to_owned() }),
        false => Ok(allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_left_out_and_nothing_else() {
        let addresses = ["127.0.0.1:0", "8.8.8.8:0", "[::1]:0", "[2606:4700::1]:0"];
        let found: Vec<SocketAddr> =
            addresses.iter().map(|address| address.parse().unwrap()).collect();

        let public = allowed("example.com", found.clone(), Receivers::Public).unwrap();
        let any = allowed("example.com", found.clone(), Receivers::Any).unwrap();
        let none = allowed("example.com", vec![found[0], found[2]], Receivers::Public);

        assert_eq!(public, [found[1], found[3]]);
        assert_eq!(any, found);
        assert!(none.unwrap_err().to_string().starts_with("example.com has no public address"));
    }

    /// What a name means is looked at where the connection is made, so it cannot mean something else by then.
    #[tokio::test]
    async fn a_client_does_not_connect_to_a_name_that_leads_to_this_machine() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
        let client = |receivers| {
            let builder =
                reqwest::Client::builder().dns_resolver(GuardedResolver(receivers)).no_proxy();
            builder.timeout(std::time::Duration::from_millis(300)).build().unwrap()
        };

        let refused = client(Receivers::Public).get(&url).send().await.unwrap_err();
        let connected =
            tokio::time::timeout(std::time::Duration::from_millis(200), listener.accept()).await;
        assert!(format!("{refused:?}").contains("NotPublic"), "{refused:?}");
        assert!(connected.is_err(), "nothing has connected");

        let (answer, connected) =
            tokio::join!(client(Receivers::Any).get(&url).send(), listener.accept());
        assert!(answer.is_err() && connected.is_ok(), "the same without the guard does");
    }
}
