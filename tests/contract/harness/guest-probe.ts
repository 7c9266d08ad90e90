// The program `guest-probe` in the guest: built once by rustc, brought in by a drive.
import { execFileSync } from "node:child_process";
import { mkdirSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import type { Guest } from "./guest.ts";

const source = join(import.meta.dirname, "guest-probe.rs");
const built = join(import.meta.dirname, "../../../.cache/guest-probe/guest-probe");

function isNewer(path: string, than: string): boolean {
  const [one, other] = [path, than].map((name) => statSync(name, { throwIfNoEntry: false })?.mtimeMs ?? 0);
  return (one ?? 0) > (other ?? 0);
}

/** Its path on the host, of whole sectors: it is a drive's file as well. */
function buildProbe(): string {
  if (!isNewer(built, source)) {
    mkdirSync(join(built, ".."), { recursive: true });
    const flags = ["-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-C", "panic=abort"];
    execFileSync("rustc", [...flags, source, "-o", built], { stdio: ["ignore", "ignore", "pipe"] });
    truncateSync(built, Math.ceil(statSync(built).size / 4096) * 4096);
  }
  return built;
}

/** Gives a guest that is not started a drive with the program; it has to be the first drive. */
export async function addProbe(guest: Guest): Promise<void> {
  await guest.vmm.put("/drives/probe", {
    drive_id: "probe",
    is_root_device: false,
    is_read_only: true,
    path_on_host: buildProbe(),
  });
}

/** Makes `guest-probe` a command of the started guest. */
export async function installProbe(guest: Guest): Promise<void> {
  await guest.run("cat /dev/vda >/bin/guest-probe && chmod +x /bin/guest-probe");
}
