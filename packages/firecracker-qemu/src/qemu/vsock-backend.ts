// The vsock device's other half: vhost-device-vsock speaks Firecracker's hybrid protocol on a unix socket, and vhost-user
// to QEMU on another, whose file lives only until QEMU has connected.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, watch } from "node:fs";
import { unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { Fault, reason } from "../fault.ts";
import type { Vsock } from "../schema/bodies.ts";

const program = join(import.meta.dirname, "../../../../.cache/tools/bin/vhost-device-vsock");
/** ms; it listens within a few */
const readyTimeoutMs = 5_000;
const maxSocketPath = 107;

/** A running backend. */
export type VsockBackend = {
  /** Where QEMU connects */
  readonly vhostSocket: string;
  /** Its end, which is the vsock device's end */
  readonly ended: Promise<string>;
  /** Removes the socket that only QEMU needs: to be called when QEMU has connected. */
  hide(): Promise<void>;
  /** Ends it and removes both sockets. */
  stop(): Promise<void>;
};

/** Resolves when `path` exists. It is bound before any other is, and bound and listening are one step for its maker. */
async function appears(path: string, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const finish = (act: () => void): void => {
      watcher.close();
      signal.removeEventListener("abort", onAbort);
      act();
    };
    const look = (): void => {
      if (existsSync(path)) finish(resolve);
    };
    const onAbort = (): void => finish(() => reject(signal.reason));
    const watcher = watch(dirname(path), (_event, name) => {
      if (name === null || name === basename(path)) look();
    });
    watcher.on("error", (cause) => finish(() => reject(cause)));
    signal.addEventListener("abort", onAbort, { once: true });
    look();
  });
}

/** Starts the backend for `vsock`; its socket at `uds_path` is bound when this resolves. @throws {Fault} */
export async function startVsockBackend(vsock: Vsock): Promise<VsockBackend> {
  const { uds_path: path, guest_cid: cid } = vsock;
  const vhostSocket = `${path}.vhost`;
  const refuse = (why: string, cause?: unknown): Fault =>
    new Fault(`Vsock config error: Cannot create backend for vsock device: \`uds_path\` ${path}: ${why}`, {
      cause,
    });
  if (/[,\s]/.test(path)) throw refuse("commas and white space are not supported by firecracker-qemu");
  if (Buffer.byteLength(vhostSocket) > maxSocketPath)
    throw refuse(`firecracker-qemu needs it to have at most ${maxSocketPath - ".vhost".length} bytes`);
  if (existsSync(path)) throw refuse("Address in use (os error 98)");
  if (!existsSync(dirname(path))) throw refuse("No such file or directory (os error 2)");
  if (!existsSync(program)) throw refuse(`${program} is not there; tools/setup.sh vsock builds it`);
  await unlink(vhostSocket).catch(() => {});
  const child: ChildProcess = spawn(
    "setpriv",
    [
      "--pdeathsig",
      "KILL",
      "--",
      program,
      "--vm",
      `guest-cid=${cid},socket=${vhostSocket},uds-path=${path},tx-buffer-size=65536,queue-size=1024`,
    ],
    { stdio: ["ignore", "ignore", "pipe"], env: { PATH: process.env["PATH"], RUST_LOG: "error" } },
  );
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString("utf8")).slice(-2000);
  });
  const ended = new Promise<string>((resolve) => {
    child.once("error", (cause) => resolve(reason(cause)));
    child.once("close", (code, signal) =>
      resolve(`vhost-device-vsock ended (${signal ?? `status ${code}`}): ${said.trim()}`),
    );
  });
  const stop = async (): Promise<void> => {
    child.kill("SIGKILL");
    await ended;
    await Promise.all([path, vhostSocket].map((one) => unlink(one).catch(() => {})));
  };
  const settled = new AbortController();
  const limit = AbortSignal.any([AbortSignal.timeout(readyTimeoutMs), settled.signal]);
  try {
    await Promise.race([
      Promise.all([appears(path, limit), appears(vhostSocket, limit)]),
      ended.then((why) => {
        throw new Error(why);
      }),
    ]);
  } catch (cause) {
    await stop();
    throw refuse(reason(cause), cause);
  } finally {
    settled.abort();
  }
  return { vhostSocket, ended, hide: () => unlink(vhostSocket).catch(() => {}), stop };
}
