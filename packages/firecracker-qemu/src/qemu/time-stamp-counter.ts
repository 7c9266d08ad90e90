// An emulated machine's time stamp counter is the host's. Its kernel has only the PIT to measure it by, which fails on a busy
// host, and then it never boots: so it is told. Measured once a boot of the host.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { readMemory, writeMemory } from "./memory.ts";
import { nativeProgram } from "./native.ts";

function measure(): number | undefined {
  const result = spawnSync(nativeProgram, ["tsc-khz"], { encoding: "utf8", timeout: 2_000 });
  const khz = Number(result.stdout);
  if (result.status === 0 && khz > 100_000) return khz;
  // Without that program: exact in a virtual machine, near enough elsewhere.
  const mhz = Number(/^cpu MHz\s*:\s*([\d.]+)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]);
  return mhz > 100 ? Math.round(mhz * 1000) : undefined;
}

/** kHz of this host's counter; undefined when it cannot be told. */
export function timeStampCounterKhz(): number | undefined {
  const key = `tsc ${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()}`;
  const known = readMemory()[key];
  if (typeof known === "number") return known;
  const khz = measure();
  if (khz !== undefined) writeMemory(key, khz);
  return khz;
}
