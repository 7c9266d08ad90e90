/** What the daemon counts, in Prometheus' terms. Names end in their unit; labels have few values, never ids. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { tinderboxVersion } from "../base/version.ts";
import type { Engine } from "../engine/contract.ts";
import type { CallObserver } from "../rpc/grpc-call.ts";

export type DaemonMetrics = {
  readonly observe: CallObserver;
  /** The text of a scrape, and its content type. */
  scrape(): Promise<{ readonly text: string; readonly contentType: string }>;
};

/** Counts the CRI's calls as they end; pods, containers and images are counted when somebody asks. */
export function createMetrics(engine: Engine): DaemonMetrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  new Gauge({
    name: "tinderbox_build_info",
    help: "Always 1; the version is in the label.",
    labelNames: ["version"],
    registers,
  }).set({ version: tinderboxVersion }, 1);
  const calls = new Counter({
    name: "tinderbox_cri_calls_total",
    help: "CRI calls that have ended, by the error code they ended with.",
    labelNames: ["method", "code"],
    registers,
  });
  const durations = new Histogram({
    name: "tinderbox_cri_call_duration_seconds",
    help: "How long CRI calls took.",
    labelNames: ["method"],
    buckets: [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registers,
  });
  new Gauge({
    name: "tinderbox_pods",
    help: "Pods by runtime handler and state.",
    labelNames: ["handler", "state"],
    registers,
    collect() {
      this.reset();
      for (const { handler, state } of engine.pods()) this.inc({ handler, state });
    },
  });
  new Gauge({
    name: "tinderbox_containers",
    help: "Containers by state.",
    labelNames: ["state"],
    registers,
    collect() {
      this.reset();
      for (const { phase } of engine.containers()) this.inc({ state: phase.kind });
    },
  });
  new Gauge({
    name: "tinderbox_images",
    help: "Images in the store.",
    registers,
    collect() {
      this.set(engine.images.list().length);
    },
  });
  new Gauge({
    name: "tinderbox_image_store_bytes",
    help: "Disk space that images take.",
    registers,
    async collect() {
      this.set((await engine.images.usage()).usedBytes);
    },
  });
  return {
    observe: (method, code, seconds) => {
      calls.inc({ method, code });
      durations.observe({ method }, seconds);
    },
    scrape: async () => ({ text: await registry.metrics(), contentType: registry.contentType }),
  };
}
