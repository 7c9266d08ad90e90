/** Bodies of the machine-wide endpoints, spelled as on the wire. */
import type { DriveWire, PmemWire } from "./drive-wire.ts";
import type { BalloonWire, MemoryHotplugWire } from "./memory-wire.ts";
import type { MmdsConfigWire, NetworkInterfaceWire, VsockWire } from "./network-wire.ts";
import type { LoggerWire, MetricsWire } from "./output-wire.ts";
import type { RateLimiterWire } from "./rate-limit-wire.ts";

/** Who a VMM is and what it does. */
export type InstanceInfoWire = {
  /** `Firecracker` */
  readonly app_name: string;
  /** `--id` */
  readonly id: string;
  /** What the guest does */
  readonly state: "Not started" | "Running" | "Paused";
  /** As GET /version */
  readonly vmm_version: string;
};

/** `X.Y.Z`, perhaps with a suffix such as `-dev` */
export type VersionWire = {
  /** `X.Y.Z`, with a suffix for a development build */
  readonly firecracker_version: string;
};

/** Processors and memory. */
export type MachineConfigWire = {
  /** 1..32 */
  readonly vcpu_count: number;
  /** MiB, > 0; even with huge pages */
  readonly mem_size_mib: number;
  /** x86 only; then `vcpu_count` is 1 or even. @default false */
  readonly smt?: boolean;
  /** @deprecated PUT /cpu-config */
  readonly cpu_template?: "C3" | "T2" | "T2S" | "T2CL" | "T2A" | "V1N1" | "None";
  /** Needed for exact Diff snapshots; undoes huge pages. @default false */
  readonly track_dirty_pages?: boolean;
  /** "2M" since 1.7, "Transparent" since 1.17. @default "None" */
  readonly huge_pages?: "None" | "Transparent" | "2M";
};

/** The kernel. */
export type BootSourceWire = {
  /** ELF on x86 (bzImage from 1.17), Image on arm; opened at once */
  readonly kernel_image_path: string;
  /** Opened at once */
  readonly initrd_path?: string;
  /** At most 2048 bytes; replaces all of the defaults */
  readonly boot_args?: string;
};

/** Bits of a register: `0b` and one of `0`, `1`, `x` (as it is) for each */
export type CpuBitmap = string;

/** A CPU template of one's own. Numbers are strings (`0x..`, decimal); x86 and arm know different fields. */
export type CpuConfigWire = {
  /** KVM capabilities to check also, or with `!` not to check */
  readonly kvm_capabilities?: readonly string[];
  /** x86 */
  readonly cpuid_modifiers?: readonly {
    /** Number as text, `0x1` */
    readonly leaf: string;
    /** Number as text */
    readonly subleaf: string;
    /** KVM's flags for the leaf */
    readonly flags: number;
    /** Of its registers */
    readonly modifiers: readonly {
      /** Which */
      readonly register: "eax" | "ebx" | "ecx" | "edx";
      /** Its bits */
      readonly bitmap: CpuBitmap;
    }[];
  }[];
  /** x86 */
  readonly msr_modifiers?: readonly {
    /** Number as text */
    readonly addr: string;
    /** Its bits */
    readonly bitmap: CpuBitmap;
  }[];
  /** arm */
  readonly reg_modifiers?: readonly {
    /** KVM's id of the register, as text */
    readonly addr: string;
    /** Its bits */
    readonly bitmap: CpuBitmap;
  }[];
  /** arm */
  readonly vcpu_features?: readonly {
    /** Word of the features */
    readonly index: number;
    /** Its bits */
    readonly bitmap: CpuBitmap;
  }[];
};

/** A source of entropy for the guest; `{}` for one without limits. */
export type EntropyWire = {
  /** @default none */
  readonly rate_limiter?: RateLimiterWire;
};

/** InstanceStart before start, once; the others after it; SendCtrlAltDel on x86 only. */
export type ActionWire = {
  /** Which */
  readonly action_type: "InstanceStart" | "FlushMetrics" | "SendCtrlAltDel";
};

/** What the VM shall do; asking twice is no failure. */
export type VmStateWire = {
  /** Which */
  readonly state: "Paused" | "Resumed";
};

/** The whole configuration, as `--config-file` takes it. */
export type VmConfigWire = {
  /** The kernel */
  readonly "boot-source": BootSourceWire;
  /** Root device first; may be empty */
  readonly drives: readonly DriveWire[];
  /** @default 1 vCPU, 128 MiB */
  readonly "machine-config"?: MachineConfigWire | null;
  /** A CPU template */
  readonly "cpu-config"?: CpuConfigWire | null;
  /** Interfaces */
  readonly "network-interfaces"?: readonly NetworkInterfaceWire[] | null;
  /** The vsock device */
  readonly vsock?: VsockWire | null;
  /** The balloon */
  readonly balloon?: BalloonWire | null;
  /** The entropy device */
  readonly entropy?: EntropyWire | null;
  /** since 1.14 */
  readonly pmem?: readonly PmemWire[] | null;
  /** since 1.14 */
  readonly "memory-hotplug"?: MemoryHotplugWire | null;
  /** How the guest reaches the metadata */
  readonly "mmds-config"?: MmdsConfigWire | null;
  /** The log */
  readonly logger?: LoggerWire | null;
  /** The metrics */
  readonly metrics?: MetricsWire | null;
};

/** What is optional may also be null, at any depth. */
export type OrNull<T> = T extends readonly (infer Item)[]
  ? readonly OrNull<Item>[]
  : T extends object
    ? { readonly [Key in keyof T]: OrNull<T[Key]> | (undefined extends T[Key] ? null : never) }
    : T;

/** What GET /vm/config tells: null for what is not set; after a restore without kernel, smt and CPU template. Never the serial device. */
export type VmConfigAnswerWire = OrNull<VmConfigWire>;
