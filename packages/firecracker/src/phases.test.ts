// What the types say: a call that a phase does not allow is not on the machine of that phase. Checked by tsc.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type ConfigurableMachine, Machine, type PausedMachine, type RunningMachine } from "./machine.ts";

export async function compiledOnly(
  configurable: ConfigurableMachine,
  running: RunningMachine,
  paused: PausedMachine,
): Promise<void> {
  const started: RunningMachine = await configurable.start();
  const loaded: PausedMachine = await configurable.loadSnapshot({ statePath: "/s", memory: { file: "/m" } });
  const stopped: PausedMachine = await started.pause();
  const resumed: RunningMachine = await stopped.resume();
  await paused.createSnapshot({ statePath: "/s", memoryPath: "/m" });
  await loaded.api.patchDrive({ drive_id: "a" });
  await resumed.api.putDrive({ drive_id: "a", is_root_device: false });
  // @ts-expect-error the kernel is given before the start
  await running.api.putBootSource({ kernel_image_path: "/k" });
  // @ts-expect-error a drive is exchanged after the start
  await configurable.api.patchDrive({ drive_id: "a" });
  // @ts-expect-error only a paused machine is written to a snapshot
  await running.createSnapshot({ statePath: "/s", memoryPath: "/m" });
  // @ts-expect-error it has been started
  await running.start();
  // @ts-expect-error it does not run yet
  await configurable.pause();
  // @ts-expect-error the start is the machine's, so that its type follows
  await configurable.api.startInstance();
  // @ts-expect-error a paused guest answers nobody
  await paused.dialVsock(1);
  // @ts-expect-error a limiter has buckets, not words
  await running.api.patchDrive({ drive_id: "a", rate_limiter: { bandwidth: "1 MiB/s" } });
}

test("phases: each machine type is a Machine", () => {
  assert.equal(typeof Machine, "function");
});
