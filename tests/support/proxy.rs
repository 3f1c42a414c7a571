//! A TCP proxy that can cut, delay and swallow what passes through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to bytes from now on, on connections that are open too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Nobody is there: connections are closed at once.
    Closed,
    /// Nothing passes, and nothing is closed.
    Silent,
    /// Each piece waits for this long.
    Slow(Duration),
    /// The next answer is cut off before its first byte; then all is well.
    LostAnswer,
    /// The connection is closed after this many bytes of an answer, once; then all is well.
    CutAnswer(usize),
    /// The same with bytes of a request.
    CutRequest(usize),
    /// Every connection is closed after this many bytes in one direction, until another fault is set.
    CutEach(usize),
}

/// A proxy in front of a server; it ends with its runtime.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
    /// Faults that have struck.
    struck: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Request,
    Answer,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let proxy = Self {
            address,
            fault: Arc::new(watch::Sender::new(Fault::None)),
            struck: Arc::default(),
        };
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serving.clone().connect(client, server));
            }
        });
        proxy
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How often one of the faults that strike once has struck.
    pub(crate) fn struck(&self) -> usize {
        self.struck.load(Ordering::SeqCst)
    }

    async fn connect(self, client: TcpStream, server: SocketAddr) {
        if *self.fault.borrow() == Fault::Closed {
            return;
        }
        let Ok(server) = TcpStream::connect(server).await else { return };
        let ((from_client, to_client), (from_server, to_server)) =
            (client.into_split(), server.into_split());
        // When one direction ends, so does the other.
        tokio::select! {
            () = self.pump(from_client, to_server, Direction::Request) => {}
            () = self.pump(from_server, to_client, Direction::Answer) => {}
        }
    }

    async fn pump(
        &self,
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        direction: Direction,
    ) {
        let mut faults = self.fault.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        let mut passed = 0;
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read.unwrap_or(0),
                _ = faults.wait_for(|fault| *fault == Fault::Closed) => return,
            };
            if read == 0 {
                return;
            }
            let fault = *faults.borrow_and_update();
            match (fault, direction) {
                (Fault::Closed, _) => return,
                (Fault::Silent, _) => {
                    let _ = faults.wait_for(|fault| *fault != Fault::Silent).await;
                    return; // whoever waited has given up
                }
                (Fault::Slow(delay), _) => tokio::time::sleep(delay).await,
                (Fault::LostAnswer, Direction::Answer) => return self.strike(),
                (Fault::CutAnswer(limit), Direction::Answer)
                | (Fault::CutRequest(limit), Direction::Request) => {
                    passed += read;
                    if passed > limit {
                        return self.strike();
                    }
                }
                (Fault::CutEach(limit), _) => {
                    passed += read;
                    if passed > limit {
                        let part = read.saturating_sub(passed - limit);
                        let _ = to.write_all(&buffer[..part]).await;
                        return;
                    }
                }
                (
                    Fault::None | Fault::LostAnswer | Fault::CutAnswer(_) | Fault::CutRequest(_),
                    _,
                ) => {}
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    fn strike(&self) {
        self.struck.fetch_add(1, Ordering::SeqCst);
        self.set(Fault::None);
    }
}
