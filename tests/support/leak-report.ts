/** What a host holds that a runtime could leave behind, before and after. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { hasEnded } from "./process-tree.ts";

/** Kind to its sorted lines */
export type Snapshot = ReadonlyMap<string, readonly string[]>;
export type Difference = {
  readonly kind: string;
  readonly added: readonly string[];
  readonly removed: readonly string[];
};

function output(file: string, args: readonly string[]): string[] {
  const result = spawnSync(file, args, { encoding: "utf8" });
  if (result.error) throw new Error(`${file}: ${result.error.message}`);
  return result.stdout.split("\n").filter((line) => line.trim() !== "");
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function processes(): string[] {
  const found: string[] = [];
  for (const pid of list("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ").trim();
      const wanted = /tinderbox|firecracker|qemu-system|\bcrun\b|\brunc\b|docker-registry/;
      const isOurs =
        wanted.test(command) && Number(pid) !== process.pid && !/tools\/|tests\/|make /.test(command);
      if (isOurs) found.push(`${pid} ${command.slice(0, 160)}`);
    } catch {
      // It has ended meanwhile.
    }
  }
  return found;
}

function namespaces(): string[] {
  const found = new Set<string>();
  for (const pid of list("/proc")) {
    // One that has ended holds its PID namespace until it is waited for: by PID 1, when nobody else is left, and when that likes.
    if (!/^\d+$/.test(pid) || hasEnded(pid)) continue;
    for (const kind of ["net", "ipc", "uts", "mnt", "pid", "cgroup"]) {
      try {
        found.add(readlinkSync(`/proc/${pid}/ns/${kind}`));
      } catch {
        // It has ended meanwhile.
      }
    }
  }
  return [...found, ...list("/run/netns").map((name) => `named ${name}`)];
}

function* directoriesBelow(path: string): Generator<string> {
  for (const name of list(path)) {
    const child = join(path, name);
    if (name.includes(".") && !name.startsWith("tinderbox")) continue;
    const below = list(child);
    if (below.length === 0) continue;
    yield child;
    yield* directoriesBelow(child);
  }
}

/** The kind whose lines portmap's own are among */
export const firewall = "iptables and nft rules";

/** Whether a firewall's line is a pod's: portmap leaves its base chains by design, a pod's rules it takes away. */
export function isRuleOfPod(line: string): boolean {
  return /CNI-DN-|CNI-SN-|dport|\d+\.\d+\.\d+\.\d+/.test(line);
}

/** Looks at the whole host, and at the files below `directories`. */
export function snapshotHost(directories: readonly string[]): Snapshot {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  const sockets = readFileSync("/proc/net/unix", "utf8").split("\n").slice(1);
  const files = [...directories, "/run/netns", "/var/lib/cni"].flatMap((directory) =>
    output("find", [directory, "-mindepth", "1"]).map((line) => line),
  );
  const links = output("ip", ["-o", "link"]).map((line) => line.replace(/^\d+: ([^:@]+).*$/, "$1"));
  const kinds: [string, string[]][] = [
    ["processes", processes()],
    [
      "mounts",
      mounts
        .map((line) => line.split(" ").slice(3, 5).join(" "))
        // iproute2's directory of network namespaces becomes a mount with a host's first one, whoever makes that, and stays.
        .filter((line) => line !== "" && !line.endsWith(" /run/netns")),
    ],
    ["namespaces", namespaces()],
    ["network links", links],
    [
      firewall,
      [...output("iptables-save", []), ...output("nft", ["--stateless", "list", "ruleset"])].filter(
        // An empty table or chain is no rule: the first pod of a host makes them, and they stay by design.
        (line) => !/^(#|:|\*|COMMIT|\s*(table|chain|type|\}))/.test(line),
      ),
    ],
    ["cgroups", [...directoriesBelow("/sys/fs/cgroup")]],
    [
      "unix sockets",
      sockets
        .map((line) => line.trim().split(/\s+/)[7] ?? "")
        .filter((path) => path !== "" && /tinderbox|tb-|vsock|firecracker/.test(path)),
    ],
    ["loop devices", output("losetup", ["-a"]).map((line) => line.split(":")[0] ?? "")],
    ["files", files],
  ];
  return new Map(kinds.map(([kind, lines]) => [kind, lines.sort()]));
}

/** What is in one and not in the other, by kind; counts repeated lines. */
export function diffSnapshots(before: Snapshot, after: Snapshot): readonly Difference[] {
  const minus = (from: readonly string[], what: readonly string[]): string[] => {
    const counts = new Map<string, number>();
    for (const line of what) counts.set(line, (counts.get(line) ?? 0) + 1);
    return from.filter((line) => {
      const left = counts.get(line) ?? 0;
      counts.set(line, left - 1);
      return left <= 0;
    });
  };
  return [...before.keys()].map((kind) => {
    const [was, is] = [before.get(kind) ?? [], after.get(kind) ?? []];
    return { kind, added: minus(is, was), removed: minus(was, is) };
  });
}

/** A table for people: how many of each kind before and after, and what was added. */
export function formatDiff(before: Snapshot, differences: readonly Difference[]): string {
  const lines = [`${"".padEnd(24)} ${"before".padStart(6)} ${"after".padStart(6)}`];
  for (const { kind, added, removed } of differences) {
    const was = before.get(kind)?.length ?? 0;
    lines.push(
      `${kind.padEnd(24)} ${String(was).padStart(6)} ${String(was + added.length - removed.length).padStart(6)}`,
    );
    for (const line of added) lines.push(`  left behind: ${line}`);
  }
  return lines.join("\n");
}

/** That this host has nothing which it had not `before`. */
export function assertNothingAdded(before: Snapshot): void {
  const differences = diffSnapshots(before, snapshotHost([]));
  const added = differences.filter((one) => one.added.length > 0);
  assert.deepEqual(added, [], formatDiff(before, differences));
}
