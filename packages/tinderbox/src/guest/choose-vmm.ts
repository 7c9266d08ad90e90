/**
 * `vmm = "auto"`: Firecracker if a guest really runs under it here, else firecracker-qemu. /dev/kvm alone proves
 * nothing (nested or emulated KVM may not run a stock kernel), so a guest is booted once and the outcome remembered.
 */
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { launchMachine, listenVsock } from "@tinderbox/firecracker";
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { binDirectory } from "../base/paths.ts";
import { writeFileAtomic } from "../base/write-file.ts";
import { findProgram } from "../native/find-program.ts";

export type GuestFiles = { readonly kernel: string; readonly initrd: string };

/** Port on which a guest's agent calls. */
const agentPort = 1024;
/** A guest under KVM calls within half a second. */
const bootTestMs = 15_000;

async function stamp(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path);
  return `${path} ${size} ${mtimeMs}`;
}

/** Boots a guest and waits for its agent's call; a reason when that did not happen. */
export async function bootTest(
  vmm: string,
  guest: GuestFiles,
  signal: AbortSignal,
): Promise<string | undefined> {
  const directory = await mkdtemp(join(tmpdir(), "tinderbox-vmm-"));
  const limited = AbortSignal.any([signal, AbortSignal.timeout(bootTestMs)]);
  try {
    await using machine = await launchMachine({
      binary: vmm,
      apiSocket: join(directory, "api"),
      id: "boot-test",
      signal: limited,
    });
    await using listener = await listenVsock(join(directory, "vsock"), agentPort);
    await machine.configure(
      {
        "machine-config": { vcpu_count: 1, mem_size_mib: 256 },
        "boot-source": {
          kernel_image_path: guest.kernel,
          initrd_path: guest.initrd,
          boot_args: "console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd",
        },
        drives: [],
        vsock: { guest_cid: 3, uds_path: join(directory, "vsock") },
      },
      { signal: limited },
    );
    await machine.start({ signal: limited });
    (await machine.whileAlive(listener.accept(limited))).destroy();
    return undefined;
  } catch (cause) {
    signal.throwIfAborted();
    return limited.aborted
      ? `a guest did not come up in ${bootTestMs / 1000} s`
      : TinderboxError.from(cause).message;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function remembered(path: string, key: string): Promise<string | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(path, "utf8"));
    if (
      typeof value === "object" &&
      value !== null &&
      "key" in value &&
      value.key === key &&
      "failure" in value
    ) {
      return typeof value.failure === "string" ? value.failure : undefined;
    }
  } catch {
    // not there or cut off: it is tried again
  }
  return undefined;
}

/** The VMM for `setting` (`auto`, `firecracker`, `firecracker-qemu` or a path). @throws TOOL_MISSING */
export async function chooseVmm(
  setting: string,
  guest: GuestFiles,
  root: string,
  logger: Logger,
  signal: AbortSignal,
): Promise<string> {
  const emulated = join(binDirectory, "firecracker-qemu");
  if (setting === "firecracker-qemu") return emulated;
  const found = await findProgram(setting === "auto" ? "firecracker" : setting);
  if (setting !== "auto") {
    if (found !== undefined) return found;
    throw new TinderboxError("TOOL_MISSING", `vmm ${setting}: not found on PATH`, {
      hint: 'set vmm = "auto"',
    });
  }
  if (found === undefined) return emulated;
  const facts = [
    await stamp(found),
    await stamp(guest.kernel),
    await stamp(guest.initrd),
    cpus()[0]?.model ?? "",
    cpus().length,
  ];
  const key = createHash("sha256").update(JSON.stringify(facts)).digest("hex");
  const memory = join(root, "vmm-test.json");
  let failure = await remembered(memory, key);
  if (failure === undefined) {
    failure = (await bootTest(found, guest, signal)) ?? "";
    await writeFileAtomic(memory, JSON.stringify({ key, failure }));
  }
  if (failure === "") return found;
  logger.info("firecracker is installed but does not run guests here", {
    vmm: found,
    reason: failure,
    instead: emulated,
  });
  return emulated;
}
