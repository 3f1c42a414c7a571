//! Which user the server runs as.

use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The user that the server runs as if this process is root, which Postgres refuses: nobody.
const NOBODY: u32 = 65534;

/// Who the server's processes are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Identity {
    /// We are not root: as we are.
    Same,
    /// Root outside, nobody inside of a user namespace: files stay root's, and any folder can be used.
    Namespace,
    /// The user nobody, who then owns the data folder.
    Nobody,
}

impl Identity {
    pub(super) fn choose(data: &Path) -> io::Result<Self> {
        // SAFETY: has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(Self::Same);
        }
        let mut probe = Command::new("true");
        Self::Namespace.apply(&mut probe);
        if probe.status().is_ok_and(|status| status.success()) {
            return Ok(Self::Namespace);
        }
        chown(data, Some(NOBODY), Some(NOBODY))?;
        Ok(Self::Nobody)
    }

    /// Makes the server's user the owner of a folder.
    pub(super) fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Same | Self::Namespace => Ok(()),
            Self::Nobody => chown(path, Some(NOBODY), Some(NOBODY)),
        }
    }

    /// Makes the command run as this identity.
    pub(super) fn apply(self, command: &mut Command) {
        match self {
            Self::Same => {}
            Self::Nobody => {
                command.uid(NOBODY).gid(NOBODY);
            }
            // SAFETY: between fork and exec only system calls are made, on strings that exist already.
            Self::Namespace => unsafe {
                command.pre_exec(|| {
                    if libc::unshare(libc::CLONE_NEWUSER) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                    write_file(c"/proc/self/setgroups", b"deny")?;
                    write_file(c"/proc/self/uid_map", b"65534 0 1\n")?;
                    write_file(c"/proc/self/gid_map", b"65534 0 1\n")
                });
            },
        }
    }
}

/// Writes a small file without allocating: usable between fork and exec.
fn write_file(path: &std::ffi::CStr, content: &[u8]) -> io::Result<()> {
    // SAFETY: path and content are valid for the calls; the descriptor is ours and closed once.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY);
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        let written = libc::write(file, content.as_ptr().cast(), content.len());
        let error = io::Error::last_os_error();
        libc::close(file);
        if written == content.len() as isize { Ok(()) } else { Err(error) }
    }
}
