// A machine into a snapshot's two files, and out of them.
import { closeSync, readSync, statSync } from "node:fs";
import { Fault, reason, systemReason } from "../fault.ts";
import type { Accelerator } from "../qemu/command-line.ts";
import { moveClock } from "../qemu/saved-clock.ts";
import { timeStampCounterKhz } from "../qemu/time-stamp-counter.ts";
import type { SnapshotCreate, SnapshotLoad, Vsock } from "../schema/bodies.ts";
import { describeConfig } from "./describe-config.ts";
import type { Beginning, RunningMachine } from "./running-machine.ts";
import { parseSavedConfig, type SavedConfig } from "./saved-config.ts";
import { readSnapshot, type SavedMachine, writeSnapshot } from "./snapshot-file.ts";
import type { VmConfig } from "./vm-config.ts";

/** A stopped machine's devices, as they were saved */
export type SavedState = { readonly machine: SavedMachine; readonly state: Buffer };

/** Saves the devices of a paused machine. */
export async function saveMachine(
  machine: RunningMachine,
  config: VmConfig,
  accelerator: Accelerator,
): Promise<SavedState> {
  if (config.machine.huge_pages === "2M")
    throw new Fault(
      "Create snapshot error: a machine with `huge_pages` 2M is not supported by firecracker-qemu: its memory cannot be read as a file.",
    );
  try {
    const { stateFd, vsock } = await machine.save();
    try {
      const state = Buffer.alloc(statSync(`/proc/self/fd/${stateFd}`).size);
      readSync(stateFd, state, 0, state.length, 0);
      return { machine: { config: describeConfig(config), accelerator, vsock, savedAt: Date.now() }, state };
    } finally {
      closeSync(stateFd);
    }
  } catch (cause) {
    throw new Fault(`Create snapshot error: Cannot save the microVM state: ${reason(cause)}`, { cause });
  }
}

/** Writes both files. @throws {Fault} for what cannot be done or written */
export async function writeSnapshotFiles(
  { snapshot_type, snapshot_path, mem_file_path }: SnapshotCreate,
  { machine: saved, state }: SavedState,
  machine: RunningMachine,
): Promise<void> {
  if (snapshot_type === "Diff")
    throw new Fault(
      "Create snapshot error: `snapshot_type` Diff is not supported by firecracker-qemu: QEMU keeps no log of written pages in a memory file; Full is.",
    );
  try {
    writeSnapshot(snapshot_path, saved, state);
  } catch (cause) {
    throw new Fault(
      `Create snapshot error: Cannot write the snapshot file (\`snapshot_path\`) ${snapshot_path}: ${systemReason(cause)}`,
      { cause },
    );
  }
  try {
    await machine.saveMemory(mem_file_path);
  } catch (cause) {
    throw new Fault(
      `Create snapshot error: Cannot write the memory file (\`mem_file_path\`) ${mem_file_path}: ${reason(cause)}`,
      { cause },
    );
  }
}

type Restored = {
  readonly saved: SavedConfig;
  readonly beginning: Extract<Beginning, { from: "snapshot" }> & { readonly accelerator: Accelerator };
};

/** The state as if the machine had run since it was saved. @throws {Error} when that cannot be */
function atPresent({ accelerator, savedAt }: SavedMachine, state: Buffer): Buffer {
  const khz = timeStampCounterKhz();
  if (accelerator === "kvm" || khz === undefined)
    throw new Error(
      "`clock_realtime` is not supported by firecracker-qemu under KVM: QEMU cannot move its clock",
    );
  return moveClock(state, Math.max(0, Date.now() - savedAt), khz);
}

/** Reads and checks the state file; the memory file is looked at. @throws {Error} saying which file is wrong */
export function readSnapshotFiles(wanted: SnapshotLoad): Restored {
  const { snapshot_path, mem_backend, mem_file_path, huge_pages } = wanted;
  const refuse = (what: string): Error => new Error(`${what} is not supported by firecracker-qemu`);
  if (mem_backend?.backend_type === "Uffd")
    throw refuse("`backend_type` Uffd: QEMU has no page fault handler of others: it");
  if (huge_pages === "2M" || huge_pages === "Transparent") throw refuse(`\`huge_pages\` ${huge_pages}`);
  if (wanted.track_dirty_pages || wanted.enable_diff_snapshots)
    throw refuse("`track_dirty_pages`, which only diff snapshots need,");
  const memoryPath = mem_backend?.backend_path ?? mem_file_path ?? "";
  let opened: ReturnType<typeof readSnapshot>;
  try {
    opened = readSnapshot(snapshot_path);
  } catch (cause) {
    throw new Error(`the snapshot file (\`snapshot_path\`) ${snapshot_path}: ${systemReason(cause)}`, {
      cause,
    });
  }
  const { machine } = opened;
  const saved = parseSavedConfig(machine.config);
  try {
    const bytes = saved["machine-config"].mem_size_mib * (1 << 20);
    const { size } = statSync(memoryPath);
    if (size !== bytes) throw new Error(`it has ${size} bytes; the machine has ${bytes}`);
  } catch (cause) {
    throw new Error(`the memory file ${memoryPath}: ${systemReason(cause)}`, { cause });
  }
  const state = wanted.clock_realtime ? atPresent(machine, opened.state) : opened.state;
  const { accelerator, vsock } = machine;
  return { saved, beginning: { from: "snapshot", memoryPath, state, vsock, accelerator } };
}

/** Which tap an interface gets. @throws {Error} when an override names no interface */
export function tapOverrides(
  { network_overrides }: SnapshotLoad,
  saved: SavedConfig,
): (id: string, savedTap: string) => string {
  const known = new Set(saved["network-interfaces"].map(({ iface_id }) => iface_id));
  const unknown = network_overrides.find(({ iface_id }) => !known.has(iface_id));
  if (unknown !== undefined)
    throw new Error(`\`network_overrides\` names an unknown network device: ${unknown.iface_id}`);
  const taps = new Map(network_overrides.map(({ iface_id, host_dev_name }) => [iface_id, host_dev_name]));
  return (id, savedTap) => taps.get(id) ?? savedTap;
}

/** The vsock device with its socket where it shall be. @throws {Error} when there is none to override */
export function overriddenVsock({ vsock_override }: SnapshotLoad, { vsock }: SavedConfig): Vsock | undefined {
  if (vsock_override === undefined) return vsock;
  if (vsock === undefined) throw new Error("`vsock_override` is given, and the snapshot has no vsock device");
  return { ...vsock, uds_path: vsock_override.uds_path };
}
