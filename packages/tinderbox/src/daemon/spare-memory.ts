/**
 * Gives back in quiet moments what busy ones took. V8 collects only when something is allocated, so garbage of a busy
 * minute would stay for hours; and most of Node's program that the start ran through is never run again.
 */
import { getHeapStatistics } from "node:v8";
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { nativeProgram } from "../base/paths.ts";
import { run } from "../native/run.ts";

/** Between two looks, unless told. */
const defaultIntervalMs = 20_000;
/** A minute with a kubelet that lists every second is quiet; one with a pod that starts is not. */
const quietUtilization = 0.2;
/** What must have been allocated since for a collection to be worth its some 20 ms. */
const worthBytes = 3 << 20;

function allocatedBytes(): number {
  const { total_heap_size, external_memory } = getHeapStatistics();
  return total_heap_size + external_memory;
}

/** Looks until it is disposed of. Does nothing in a process that was started without --expose-gc. */
export function spareMemory(logger: Logger, intervalMs: number = defaultIntervalMs): Disposable {
  const collect = globalThis.gc;
  if (collect === undefined) return { [Symbol.dispose]: () => {} };
  let before = performance.eventLoopUtilization();
  let keptBytes = 0;
  let isFirst = true;
  const look = async (): Promise<void> => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, before);
    before = now;
    if (utilization > quietUtilization || allocatedBytes() < keptBytes + worthBytes) return;
    // The flavour that also moves objects together, so that pages become free.
    await collect({ type: "major", execution: "sync", flavor: "last-resort" });
    keptBytes = allocatedBytes();
    logger.debug("collected garbage", { keptBytes });
    if (!isFirst) return;
    isFirst = false;
    await run(nativeProgram, ["page-out", "--parent", String(process.pid)], { timeoutMs: 10_000 });
  };
  const timer = setInterval(() => {
    look().catch((cause) =>
      logger.debug("memory was not given back", { cause: TinderboxError.from(cause).message }),
    );
  }, intervalMs);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
