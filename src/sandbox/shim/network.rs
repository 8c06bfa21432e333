//! Owns the way out of the network: a namespace in which there is none but a loopback of its own.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
    unistd::write,
};

/// Leaves the network for a new, empty one. Who may not do that alone may do it in a user namespace, where the kernel allows those.
pub(super) fn leave() -> Result<(), String> {
    let left = match unshare(CloneFlags::CLONE_NEWNET) {
        Err(Errno::EPERM) => leave_as_user(),
        left => left.map_err(io::Error::from),
    };
    left.map_err(|e| {
        format!(
            "net is off, and the kernel allows no network namespace ({e}): set net to true, run as root, allow user namespaces, or install bwrap"
        )
    })?;
    // A command that needs its loopback says so itself.
    let _ = raise_loopback();
    Ok(())
}

/// In the new user namespace everybody is who they were, and nobody else exists.
fn leave_as_user() -> io::Result<()> {
    let own = fs::metadata("/proc/self")?;
    let (user, group) = (own.uid(), own.gid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    // The kernel accepts a group only from those who cannot drop groups afterwards.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Asks the kernel to bring up interface 1, which every network namespace begins with: rtnetlink(7), one message.
fn raise_loopback() -> nix::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const IFF_UP: u32 = 1;
    const LENGTH: u32 = 32;
    let mut message = Vec::with_capacity(32);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence and port
    message.extend([0; 4]); // any family, any type
    message.extend(1_i32.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    let kernel: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    write(&kernel, &message).map(drop)
}
