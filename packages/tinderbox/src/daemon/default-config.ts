/** What the daemon does without a configuration file. */
import { defaultSpecDirs } from "../cdi/contract.ts";
import { defaultImageSettings } from "../image/image-settings.ts";
import type { DaemonConfig, RuntimeConfig } from "./config.ts";

/** Read when `--config` is not given, if it exists. */
export const defaultConfigPath = "/etc/tinderbox/config.toml";

const runtimes: readonly RuntimeConfig[] = [
  { type: "oci", name: "crun", path: "crun" },
  { type: "oci", name: "runc", path: "runc" },
  {
    type: "microvm",
    name: "firecracker",
    vmm: "auto",
    jailer: "auto",
    kernel: "",
    initrd: "",
    bootArgs: "",
    vcpus: 1,
    memoryMib: 256,
  },
];

/** The configuration without a file. */
export const defaultConfig: DaemonConfig = {
  root: "/var/lib/tinderbox",
  state: "/run/tinderbox",
  listen: "/run/tinderbox/tinderbox.sock",
  logLevel: undefined,
  defaultRuntime: "crun",
  runtimes: new Map(runtimes.map((runtime) => [runtime.name, runtime])),
  enableCriuSupport: true,
  cni: { confDir: "/etc/cni/net.d", binDirs: ["/opt/cni/bin", "/usr/lib/cni"], defaultNetwork: "" },
  cdiSpecDirs: defaultSpecDirs,
  metrics: { listen: "" },
  images: defaultImageSettings,
};
