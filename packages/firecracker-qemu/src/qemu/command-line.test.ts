import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { VmConfig } from "../machine/vm-config.ts";
import { driveBody, machineConfigBody } from "../schema/bodies.ts";
import { parseStrict } from "../schema/strict-json.ts";
import { qemuArguments, type Wiring } from "./command-line.ts";

const work = mkdtempSync("/tmp/fcq,x-");
const disk = join(work, "disk.img");
writeFileSync(disk, Buffer.alloc(4096));
after(() => rmSync(work, { recursive: true, force: true }));

function withDrives(count: number, rootAt = -1): VmConfig {
  const config = new VmConfig();
  config.setBootSource({ kernel_image_path: disk, initrd_path: undefined, boot_args: "quiet" });
  for (let n = 0; n < count; n++) {
    const body = { drive_id: `d${n}`, is_root_device: n === rootAt, path_on_host: disk, is_read_only: n > 0 };
    config.putDrive(parseStrict(JSON.stringify(body), driveBody));
  }
  return config;
}

const wiring = (tscKhz?: number): Wiring => ({
  label: "a,b",
  memoryFd: 5,
  hostCpus: 4,
  kernel: { fd: 6, initrdFd: undefined },
  tscKhz,
  driveFiles: new Map([["d0", { fd: 7, bytes: 1024, isBlockDevice: false }]]),
  resizeFd: 8,
  vsockSocket: undefined,
  netSockets: new Map(),
  macs: new Map(),
  monitorSocket: "monitor",
  serial: { to: "stdio" },
});

const busOf = (args: readonly string[], id: string): string =>
  /bus=(\S+?)(,|$)/.exec(args.find((arg) => arg.includes(`id=blk-${id},`)) ?? "")?.[1] ?? "";

test("qemuArguments: drives are on descending buses in the guest's order, the root device first", () => {
  const args = qemuArguments(withDrives(3, 2), "tcg", wiring());
  assert.deepEqual(
    ["d2", "d0", "d1"].map((id) => busOf(args, id)),
    ["virtio-mmio-bus.7", "virtio-mmio-bus.6", "virtio-mmio-bus.5"],
  );
  assert.ok(args.includes("quiet pci=off root=/dev/vda ro"));
});

test("qemuArguments: of a file that ends within a sector the guest sees whole sectors only", () => {
  const sizeOf = (bytes: number): string | undefined => {
    const driveFiles = new Map([["d0", { fd: 7, bytes, isBlockDevice: false }]]);
    const args = qemuArguments(withDrives(1), "tcg", { ...wiring(), driveFiles });
    return /"size":(\d+)/.exec(args.find((arg) => arg.includes('"raw"')) ?? "")?.[1];
  };
  assert.equal(sizeOf(1024), undefined);
  assert.equal(sizeOf(1000), "512");
  assert.equal(sizeOf(100), "0");
});

test("qemuArguments: more than eight devices need the second IO-APIC", () => {
  const machine = (count: number): string =>
    qemuArguments(withDrives(count), "tcg", wiring()).find((arg) => arg.startsWith("microvm")) ?? "";
  assert.match(machine(8), /ioapic2=off/);
  assert.match(machine(9), /ioapic2=on/);
  assert.equal(busOf(qemuArguments(withDrives(9), "tcg", wiring()), "d0"), "virtio-mmio-bus.23");
});

test("qemuArguments: an emulated kernel is told its counter's rate and that it can be relied on, unless the user has said it", () => {
  const config = withDrives(1);
  const line = (): string => {
    const args = qemuArguments(config, "tcg", wiring(2_500_000));
    return args[args.indexOf("-append") + 1] ?? "";
  };
  assert.equal(line(), "quiet pci=off tsc_early_khz=2500000 tsc=reliable");
  config.setBootSource({
    kernel_image_path: disk,
    initrd_path: undefined,
    boot_args: "tsc=unstable tsc_early_khz=1",
  });
  assert.equal(line(), "tsc=unstable tsc_early_khz=1 pci=off");
});

test("qemuArguments: no path of the user's is in it, so none can add an option, and QEMU needs no right to any", () => {
  const args = qemuArguments(withDrives(1), "kvm", wiring());
  assert.equal(
    args.find((arg) => arg.includes(work)),
    undefined,
  );
  assert.ok(args.some((arg) => arg.startsWith("{") && JSON.parse(arg).filename === "/dev/fdset/7"));
  assert.ok(args.includes("/proc/self/fd/6"));
  assert.ok(args.includes("guest=a,,b"));
});

test("qemuArguments: emulated CPUs have a thread each only where the host has twice as many", () => {
  const accel = (cpus: number, accelerator: "kvm" | "tcg", hostCpus: number): string => {
    const config = withDrives(1);
    config.setMachine(
      parseStrict(JSON.stringify({ vcpu_count: cpus, mem_size_mib: 128 }), machineConfigBody),
    );
    const args = qemuArguments(config, accelerator, { ...wiring(), hostCpus });
    return args[args.indexOf("-accel") + 1] ?? "";
  };
  assert.equal(accel(1, "tcg", 1), "tcg");
  assert.equal(accel(2, "tcg", 4), "tcg,thread=multi");
  assert.equal(accel(2, "tcg", 3), "tcg,thread=single");
  assert.equal(accel(2, "kvm", 2), "kvm");
});
