/** The daemon's configuration as everything inside it sees it: parsed once by `load-config.ts`, trusted after. */
import type { LogLevel } from "../base/log.ts";
import type { ImageSettings } from "../image/image-settings.ts";

export type OciRuntimeConfig = { readonly type: "oci"; readonly name: string; readonly path: string };

export type MicroVmRuntimeConfig = {
  readonly type: "microvm";
  readonly name: string;
  /** `auto`, `firecracker`, `firecracker-qemu`, or an absolute path */
  readonly vmm: string;
  /** `auto`, `none`, or an absolute path */
  readonly jailer: string;
  /** "" = the project's own guest */
  readonly kernel: string;
  readonly initrd: string;
  /** Appended to the kernel command line */
  readonly bootArgs: string;
  readonly vcpus: number;
  readonly memoryMib: number;
};

export type RuntimeConfig = OciRuntimeConfig | MicroVmRuntimeConfig;

export type DaemonConfig = {
  /** Images, database: survives a reboot */
  readonly root: string;
  /** Sockets, namespaces: does not */
  readonly state: string;
  /** The CRI socket */
  readonly listen: string;
  /** undefined = the command line's, or info */
  readonly logLevel: LogLevel | undefined;
  readonly defaultRuntime: string;
  readonly runtimes: ReadonlyMap<string, RuntimeConfig>;
  /** Checkpoints where the host has CRIU */
  readonly enableCriuSupport: boolean;
  readonly cni: {
    readonly confDir: string;
    readonly binDirs: readonly string[];
    /** The name of the network that pods get; "" = that of the first file */
    readonly defaultNetwork: string;
  };
  /** Directories with files of CDI devices, the strongest last; none: there are no devices */
  readonly cdiSpecDirs: readonly string[];
  /** A unix socket's path, or HOST:PORT of loopback; "" = none */
  readonly metrics: { readonly listen: string };
  /** The tables `images` and `registries` */
  readonly images: ImageSettings;
};
