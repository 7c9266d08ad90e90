// The SDK with a guest that really runs, on firecracker-qemu; the same on Firecracker itself by
// SDK_VMM=firecracker SDK_KERNEL=vmlinux SDK_VMM_ARGS="..." (its own arguments).
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import {
  adoptMachine,
  isVmmAlive,
  launchFromConfigFile,
  listenVsock,
  type MachineConfiguration,
  MachineJournal,
} from "../packages/firecracker/src/index.ts";

const root = join(import.meta.dirname, "..");
const binary = process.env["SDK_VMM"] ?? join(root, "bin/firecracker-qemu");
const kernel = process.env["SDK_KERNEL"] ?? join(root, ".cache/guest/vmlinux");
const args = (process.env["SDK_VMM_ARGS"] ?? "").split(" ").filter(Boolean);

const work = mkdtempSync("/tmp/fc-sdk-");
after(() => rmSync(work, { recursive: true, force: true }));
const at = (name: string): string => join(work, name);
const vsock = at("vsock");
/** Where the guest's agent calls, and listens. */
const agentPort = 1024;

const configuration: MachineConfiguration = {
  "machine-config": { vcpu_count: 1, mem_size_mib: 256 },
  "boot-source": {
    kernel_image_path: kernel,
    initrd_path: join(root, ".cache/guest/initramfs.img"),
    boot_args: "console=ttyS0 reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd",
  },
  drives: [{ drive_id: "data", is_root_device: false, path_on_host: at("small.img") }],
  vsock: { guest_cid: 3, uds_path: vsock },
  entropy: {},
};
writeFileSync(at("small.img"), Buffer.alloc(1 << 20));
writeFileSync(at("large.img"), Buffer.alloc(2 << 20));
const files = ["large.img", "small.img"];

/** What a machine left beside the files that were there before. */
function left(...expected: string[]): string[] {
  return readdirSync(work).filter((name) => ![...files, ...expected].includes(name));
}

test("a machine outlives its owner, is found by the journal and adopted, used and ended; nothing is left", async () => {
  writeFileSync(
    at("owner.ts"),
    `import { openSync } from "node:fs";
     import { launchMachine, listenVsock, MachineJournal } from ${JSON.stringify(join(root, "packages/firecracker/src/index.ts"))};
     const listener = await listenVsock(${JSON.stringify(vsock)}, ${agentPort});
     const machine = await launchMachine({
       binary: ${JSON.stringify(binary)}, id: "sdk-1", apiSocket: ${JSON.stringify(at("api.sock"))}, args: ${JSON.stringify(args)},
       journal: new MachineJournal(${JSON.stringify(at("journal"))}), outputFd: openSync(${JSON.stringify(at("console"))}, "a"),
     });
     await machine.configure(${JSON.stringify(configuration)});
     const running = await machine.start();
     await running.whileAlive(listener.accept(AbortSignal.timeout(60_000)));
     await listener.close();
     console.log("the guest called");
     setInterval(() => {}, 1000);`,
  );
  const owner = spawn(process.execPath, [at("owner.ts")], { stdio: ["ignore", "pipe", "inherit"] });
  assert.ok(owner.stdout);
  await Promise.race([
    once(createInterface(owner.stdout), "line"),
    once(owner, "exit").then(() => assert.fail("the owner ended before its guest called")),
  ]);
  owner.kill("SIGKILL");
  await once(owner, "exit");

  const journal = new MachineJournal(at("journal"));
  const { live, failed } = await journal.recover();
  assert.deepEqual([live.map(({ id }) => id), failed], [["sdk-1"], []]);
  const [record] = live;
  assert.ok(record);
  const machine = await adoptMachine(record);
  assert.ok(machine.phase === "running");
  (await machine.dialVsock(agentPort, { retry: {} })).destroy();
  await machine.api.patchDrive({ drive_id: "data", path_on_host: at("large.img") });
  assert.equal((await machine.api.vmConfig()).drives[0]?.path_on_host, at("large.img"));
  const paused = await machine.pause();
  assert.equal((await paused.api.instanceInfo()).state, "Paused");
  const resumed = await paused.resume();
  (await resumed.dialVsock(agentPort, { retry: {} })).destroy();

  const ended = machine.wait();
  await machine.kill();
  assert.deepEqual(await ended, { exitCode: null, signal: null });
  assert.equal(isVmmAlive(record.identity), false);
  assert.deepEqual(await journal.recover(), { live: [], cleaned: [], failed: [] });
  assert.deepEqual(left("journal", "console", "owner.ts"), []);
});

test("a machine by a config file: the guest runs when it is there, speaks on its console, and its end is told", async () => {
  await using listener = await listenVsock(vsock, agentPort);
  await using machine = await launchFromConfigFile({
    binary,
    id: "sdk-2",
    apiSocket: at("api2.sock"),
    args,
    configuration,
  });
  (await machine.whileAlive(listener.accept(AbortSignal.timeout(60_000)))).destroy();
  assert.equal((await machine.api.machineConfig()).mem_size_mib, 256);
  await assert.rejects(machine.api.putNetworkInterface({ iface_id: "x", host_dev_name: "none" }), {
    code: "FC_API",
  });
  assert.match(machine.stdout?.tail(65_536) ?? "", /Linux version|Command line/);
  const ending = machine.wait();
  await machine.shutdown({ guestMs: 0 });
  assert.deepEqual(await ending, await machine.wait());
  await listener.close();
  assert.deepEqual(left("journal", "console", "owner.ts"), []);
});
