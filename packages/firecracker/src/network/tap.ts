/** Tap devices, made and removed by iproute2's `ip`, in any network namespace that has a file. */
import { HostCommandError, runHostCommand } from "../host-command.ts";
import type { Leftover } from "../leftovers.ts";
import { parseMac } from "./mac-address.ts";
import { FirecrackerNetworkError } from "./network-error.ts";

/** Which device, and where. */
export type TapName = {
  /** 1..15 bytes without `/`, `:` and white space */
  readonly name: string;
  /** Name below /run/netns, or a path. @default the caller's namespace */
  readonly netns?: string;
};

/** A tap to be made. */
export type TapOptions = TapName & {
  /** Who may open it without CAP_NET_ADMIN: a jailed VMM's user. @default root */
  readonly uid?: number;
  /** @default none */
  readonly gid?: number;
  /** Of the host's end; the guest's is in the network interface's body. @default random */
  readonly mac?: string;
  /** 68..65535. @default 1500 */
  readonly mtu?: number;
  /** Ends the making; nothing of it is left then */
  readonly signal?: AbortSignal;
};

/** A tap that exists and is up. */
export type Tap = TapName &
  AsyncDisposable & {
    /** For `launchMachine`'s `leftovers`: removes it with the machine, after our own end too */
    readonly leftover: Leftover;
    /** Fine when it is gone already. @throws {FirecrackerNetworkError} FC_NETWORK */
    remove(): Promise<void>;
  };

function checkName(name: string): void {
  // A name with a dash in front would be an option of ip's.
  if (!/^[^\s/:-][^\s/:]*$/.test(name) || name === "." || name === ".." || Buffer.byteLength(name) > 15)
    throw new FirecrackerNetworkError(
      "name",
      `${JSON.stringify(name)} is not a device name: 1..15 bytes without "/", ":" and white space`,
    );
}

function checkNumber(field: string, value: number | undefined, least: number, most: number): void {
  if (value !== undefined && (!Number.isInteger(value) || value < least || value > most))
    throw new FirecrackerNetworkError(field, `${value} is not within ${least}..${most}`);
}

/** A namespace's file. @throws {FirecrackerNetworkError} FC_NETWORK */
export function netnsPath(netns: string): string {
  if (netns.startsWith("/")) return netns;
  if (!/^[^/\0]+$/.test(netns) || netns === "." || netns === "..")
    throw new FirecrackerNetworkError(
      "netns",
      `${JSON.stringify(netns)} is neither a name nor an absolute path`,
    );
  return `/run/netns/${netns}`;
}

/** Runs `ip` in the namespace. nsenter, because `ip -n` knows names only. */
function ip(netns: string | undefined, args: readonly string[], signal?: AbortSignal): Promise<string> {
  return netns === undefined
    ? runHostCommand("ip", args, signal)
    : runHostCommand("nsenter", [`--net=${netnsPath(netns)}`, "--", "ip", ...args], signal);
}

function failure(what: string, cause: unknown): unknown {
  if (!(cause instanceof HostCommandError)) return cause;
  const isNetns = /cannot open .*: (No such file|Invalid)|reassociate to namespaces/.test(cause.message);
  return new FirecrackerNetworkError(isNetns ? "netns" : undefined, `${what}: ${cause.message}`, cause);
}

/** What the device of that name is: a tap, something else, or not there. */
async function lookUp({ name, netns }: TapName, signal?: AbortSignal): Promise<"tap" | "other" | "absent"> {
  let text: string;
  try {
    text = await ip(netns, ["-details", "-json", "link", "show", "dev", name], signal);
  } catch (cause) {
    if (cause instanceof HostCommandError && /does not exist|Cannot find device/.test(cause.message))
      return "absent";
    throw cause;
  }
  return /"info_kind":"tun"/.test(text) && /"type":"tap"/.test(text) ? "tap" : "other";
}

/**
 * Makes a tap, sets it up and brings it up, or leaves nothing.
 * @throws {FirecrackerNetworkError} FC_NETWORK naming the option at fault; `name` when there is such a device
 */
export async function createTap(options: TapOptions): Promise<Tap> {
  const { name, netns, uid, gid, mtu, signal } = options;
  checkName(name);
  checkNumber("uid", uid, 0, 0xffff_fffe);
  checkNumber("gid", gid, 0, 0xffff_fffe);
  checkNumber("mtu", mtu, 68, 65_535);
  const mac = options.mac === undefined ? undefined : parseMac(options.mac);
  const which: TapName = netns === undefined ? { name } : { name, netns };
  const what = `tap ${name}${netns === undefined ? "" : ` in ${netns}`}`;
  try {
    if ((await lookUp(which, signal)) !== "absent")
      throw new FirecrackerNetworkError("name", `there is a device ${name} already`);
    const owner = [
      ...(uid === undefined ? [] : ["user", String(uid)]),
      ...(gid === undefined ? [] : ["group", String(gid)]),
    ];
    signal?.throwIfAborted();
    // Not ended half-way: nobody could tell then whether the tap is ours.
    await ip(netns, ["tuntap", "add", "dev", name, "mode", "tap", ...owner]);
  } catch (cause) {
    throw failure(`${what} cannot be made`, cause);
  }
  const tap: Tap = {
    ...which,
    leftover: { kind: "netDevice", path: name, ...(netns !== undefined && { netns: netnsPath(netns) }) },
    remove: () => removeTap(which),
    [Symbol.asyncDispose]: () => removeTap(which),
  };
  try {
    const set = [
      ...(mac === undefined ? [] : ["address", mac]),
      ...(mtu === undefined ? [] : ["mtu", String(mtu)]),
    ];
    await ip(netns, ["link", "set", "dev", name, ...set, "up"], signal);
    return tap;
  } catch (cause) {
    await tap.remove();
    throw failure(`${what} cannot be set up`, cause);
  }
}

/**
 * Removes a tap. Fine when it, or its namespace, is gone already.
 * @throws {FirecrackerNetworkError} FC_NETWORK naming `name` when that device is no tap
 */
export async function removeTap(which: TapName): Promise<void> {
  checkName(which.name);
  try {
    const found = await lookUp(which);
    if (found === "other")
      throw new FirecrackerNetworkError("name", `${which.name} is not a tap, so it is left alone`);
    if (found === "tap") await ip(which.netns, ["link", "delete", "dev", which.name]);
  } catch (cause) {
    if (
      cause instanceof HostCommandError &&
      /cannot open .*No such file|Cannot find device/.test(cause.message)
    )
      return;
    throw failure(`tap ${which.name} cannot be removed`, cause);
  }
}
