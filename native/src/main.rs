//! The one native program of Tinderbox, by its first argument (or as PID 1 of a microVM): see `usage`.
mod agent;
mod checkpoint;
#[cfg(test)]
#[path = "../fuzz/exercise.rs"]
mod exercise;
mod frame;
mod fs;
mod guest;
mod host;
mod image;
mod launch;
mod microvm;
mod netns;
mod notify;
mod page_out;
#[cfg(test)]
mod replay;
mod sys;
mod tap;
mod threads;
mod tsc;
mod userns;

/// The agent's protocol, generated from proto/tinderbox/agent/v1/agent.proto.
#[allow(clippy::all)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/tinderbox.agent.v1.rs"));
}

use std::process::ExitCode;

const USAGE: &str = "\
usage: tinderbox-native VERB ...
  agent --socket PATH --dir DIR [--netns PATH] [--unshare-ipc] [--unshare-uts] [--hostname NAME]
        [--pod-pid-namespace] [--pod-userns] [--cgroup DIR]... [--sysctl NAME=VALUE]...
                     the monitor of a pod on the host; detaches, and prints its identity once it listens
  launch [--netns PATH] [--cgroup DIR]... -- PROGRAM ARGS...
                     joins a network namespace and cgroups, then executes PROGRAM
  checkpoint --runtime PROGRAM --root DIR --id ID --bundle DIR --upper DIR --directory DIR [--skip PATH]...
                     stops a container for as long as its checkpoint takes, and writes that as a tar to standard output
  mount-image FILE TARGET FSTYPE
                     mounts a read-only image file (squashfs, erofs, ext4) through a loop device
  umount TARGET      unmounts; a target that is not mounted is fine
  netns-add NAME [--uid-map INSIDE:OUTSIDE:LENGTH --gid-map INSIDE:OUTSIDE:LENGTH]
                     makes a named network namespace: loopback up, no router advertisements;
                     with maps it belongs to a new user namespace, which lives as long as it does
  notify LINE...     tells the service manager at $NOTIFY_SOCKET
  page-out --parent PID
                     has the kernel take back the pages of its parent's program that nobody else maps
  tap-attach NAME    makes the open /dev/net/tun on descriptor 3 the tap NAME, and prints its name
  send-fd NAME       hands the open file on descriptor 3 to whoever listens on the abstract socket NAME
  microvm-devices [LABEL]
                     the devices of one firecracker-qemu that are not QEMU's own; controlled on descriptor 3
  confine [--uid N] [--gid N] [--group N]... [--parent PID] -- PROGRAM ARGS...
                     gives up privileges, then executes PROGRAM, which dies with its parent
  hold --uid-map INSIDE:OUTSIDE:LENGTH --gid-map INSIDE:OUTSIDE:LENGTH [--pod-pid-namespace]
                     in a guest: starts the process that holds a pod's user namespace, and prints its pid
  fs --socket PATH [--cgroup DIR]...
                     serves a pod's volumes to its guest; detaches, and prints its identity once it listens
  fs-add --pid PID --start-time TIME --id ID --source PATH [--readonly | --recursive-readonly] [--slave]
        [--uid-map DISK:GUEST:LENGTH]... [--gid-map DISK:GUEST:LENGTH]...
                     gives that server a directory or file; prints which of the two it is, and `nested` with mounts below;
                     with maps its guest sees their owners by them, and others as nobody
  fs-remove --pid PID --start-time TIME --id ID
                     takes it away again; what is not there is fine
  tsc-khz            measures the rate of this processor's time stamp counter
  version";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // By name as well: the pause process is PID 1 too, of its own namespace on the host.
    if std::process::id() == 1 && args.first().is_some_and(|name| name == "/init") {
        return guest::init::run();
    }
    let verb = args.get(1).map(String::as_str).unwrap_or("");
    let rest = args.get(2..).unwrap_or(&[]);
    let result = match verb {
        "agent" => host::run(rest),
        "hold" => guest::pod::hold(rest),
        "launch" => launch::run(rest),
        "checkpoint" => checkpoint::run(rest),
        "fs" => fs::run(rest),
        "fs-add" => fs::add(rest),
        "fs-remove" => fs::remove(rest),
        "mount-image" => image::mount(rest),
        "umount" => image::unmount(rest),
        "netns-add" => netns::run(rest),
        "notify" => notify::run(rest),
        "page-out" => page_out::run(rest),
        "tap-attach" => tap::attach(rest),
        "send-fd" => microvm::control::send_fd(rest),
        "microvm-devices" => microvm::control::run(),
        "confine" => microvm::confine::run(rest),
        "tsc-khz" => tsc::khz().map(|khz| println!("{khz}")),
        "pause" => agent::pause::run(),
        "version" | "--version" => {
            println!("tinderbox-native {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("tinderbox-native: unknown verb '{verb}'\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("tinderbox-native {verb}: {message}");
            ExitCode::FAILURE
        }
    }
}
