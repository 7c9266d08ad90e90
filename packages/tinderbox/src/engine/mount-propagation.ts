/** Whether a volume's source can propagate mounts as the request wants: a private one would do nothing, and not say so. */
import { readFileSync, realpathSync } from "node:fs";
import { TinderboxError } from "../base/errors.ts";
import type { ContainerConfig } from "./contract.ts";

type Peers = { readonly isShared: boolean; readonly isSlave: boolean };

/** How the mount that holds `path` propagates, by the text of a mountinfo file. */
export function peersOf(path: string, mountinfo: string): Peers {
  let longest = "";
  let found: Peers = { isShared: false, isSlave: false };
  for (const line of mountinfo.split("\n")) {
    const [left = ""] = line.split(" - ");
    const [, , , , target = "", , ...optional] = left.split(" ");
    const point = target.replace(/\\([0-7]{3})/g, (_, octal) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    const holds = point === "/" || path === point || path.startsWith(`${point}/`);
    // A later mount on the same point covers an earlier one.
    if (point === "" || !holds || point.length < longest.length) continue;
    longest = point;
    found = {
      isShared: optional.some((field) => field.startsWith("shared:")),
      isSlave: optional.some((field) => field.startsWith("master:")),
    };
  }
  return found;
}

/** @throws INVALID naming the mount whose source is not shared */
export function checkPropagation(config: ContainerConfig): void {
  if (config.mounts.every(({ propagation }) => propagation === "private")) return;
  const mountinfo = readFileSync("/proc/self/mountinfo", "utf8");
  for (const [n, { source, propagation }] of config.mounts.entries()) {
    if (source.kind !== "path" || propagation === "private") continue;
    const { isShared, isSlave } = peersOf(realpathSync(source.path), mountinfo);
    if (isShared || (isSlave && propagation === "rslave")) continue;
    throw new TinderboxError(
      "INVALID",
      `mounts[${n}].propagation ${propagation}: ${source.path} is on a private mount of the host, which passes nothing on`,
      { hint: "mount --make-rshared its mount point, as systemd does for /." },
    );
  }
}
