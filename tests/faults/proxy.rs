//! A TCP proxy that can be told to fail.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to what comes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Pass,
    /// Connections are closed at once.
    Refuse,
    /// Connections are accepted, and nothing ever comes out.
    Swallow,
    /// Each chunk of up to 16 KiB comes this much later.
    Delay(Duration),
    /// A connection is cut after so many bytes in one direction.
    CutAfter(usize),
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: watch::Sender<Mode>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Passes connections on to a port of this machine.
    pub(crate) async fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (mode, modes) = watch::channel(Mode::Pass);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() != Mode::Refuse {
                    tokio::spawn(serve(client, to, modes.clone()));
                }
            }
        });
        Ok(Self { port, mode, accepting })
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(client: TcpStream, to: u16, modes: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    // Whichever direction ends first takes the other with it.
    tokio::select! {
        () = pump(client_reads, server_writes, modes.clone()) => {}
        () = pump(server_reads, client_writes, modes) => {}
    }
}

/// Passes one direction on until it ends or is to fail.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>) {
    let mut chunk = vec![0; 16 << 10];
    let mut passed = 0;
    loop {
        let mode = *modes.borrow_and_update();
        let read = match mode {
            Mode::Refuse => return,
            Mode::Swallow => {
                // What is in flight is lost: when the network is back, the connection is gone.
                let _ = modes.changed().await;
                return;
            }
            Mode::Pass | Mode::Delay(_) | Mode::CutAfter(_) => tokio::select! {
                read = from.read(&mut chunk) => read,
                changed = modes.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            },
        };
        let Ok(mut size @ 1..) = read else { return };
        match mode {
            Mode::Delay(time) => tokio::time::sleep(time).await,
            Mode::CutAfter(limit) => size = size.min(limit.saturating_sub(passed)),
            Mode::Pass | Mode::Refuse | Mode::Swallow => {}
        }
        passed += size;
        if to.write_all(&chunk[..size]).await.is_err() {
            return;
        }
        if matches!(mode, Mode::CutAfter(limit) if passed >= limit) {
            return;
        }
    }
}
