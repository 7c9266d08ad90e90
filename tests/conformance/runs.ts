/** The runs of critest that there are: which version, on which handler, of what, and how many specs that is. */

export type CritestVersion = "1.36" | "1.37";

export type Run = {
  /** Of tinderboxd, or `containerd`: the control, with runc */
  readonly handler: "crun" | "runc" | "firecracker" | "containerd";
  readonly critest: CritestVersion;
  /** Exec, attach and port-forward by WebSocket instead of SPDY */
  readonly websocket: boolean;
  /** What ginkgo runs of it; everything without it */
  readonly focus?: string;
  /** With a focus: how many specs pass, no more and no less */
  readonly passes?: number;
};

/** Specs in all, benchmarks left out; one that vanished fails a run. 1.37 has 13 of NRI, 5 of image volumes and 2 of metrics more. */
export const specsOf: Readonly<Record<CritestVersion, number>> = { "1.36": 117, "1.37": 137 };

const whole = { critest: "1.36", websocket: false } as const;
const streaming = { critest: "1.36", websocket: true, focus: "Streaming" } as const;

export const runs: Readonly<Record<string, Run>> = {
  crun: { handler: "crun", ...whole },
  runc: { handler: "runc", ...whole },
  firecracker: { handler: "firecracker", ...whole },
  "crun-websocket": { handler: "crun", ...streaming, passes: 5 },
  // The fifth forwards a port of the host's network.
  "firecracker-websocket": { handler: "firecracker", ...streaming, passes: 4 },
  "crun-1.37": { handler: "crun", ...whole, critest: "1.37" },
  "firecracker-1.37": { handler: "firecracker", ...whole, critest: "1.37" },
  "firecracker-1.37-new": {
    handler: "firecracker",
    ...whole,
    critest: "1.37",
    focus: "Image Volume|metrics",
    passes: 7,
  },
  containerd: { handler: "containerd", ...whole },
  "containerd-1.37": { handler: "containerd", ...whole, critest: "1.37" },
};

/** What `make test` runs. */
export const usual: readonly string[] = [
  "crun",
  "crun-websocket",
  "crun-1.37",
  "runc",
  "firecracker",
  "firecracker-websocket",
  "firecracker-1.37-new",
];
