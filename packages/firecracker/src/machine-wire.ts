/** Bodies of the machine-wide endpoints, spelled as on the wire. */
import type {
  BalloonWire,
  DriveWire,
  EntropyWire,
  MmdsConfigWire,
  NetworkInterfaceWire,
  VsockWire,
} from "./device-wire.ts";

export type InstanceInfoWire = {
  readonly app_name: string;
  readonly id: string;
  readonly state: "Not started" | "Running" | "Paused";
  readonly vmm_version: string;
};

export type VersionWire = { readonly firecracker_version: string };

export type MachineConfigWire = {
  /** 1..32 */
  readonly vcpu_count: number;
  /** MiB, > 0; even with huge pages */
  readonly mem_size_mib: number;
  /** x86 only; then `vcpu_count` is 1 or even */
  readonly smt?: boolean;
  readonly track_dirty_pages?: boolean;
  /** "2M" since 1.7, "Transparent" since 1.17 */
  readonly huge_pages?: "None" | "Transparent" | "2M";
};

export type BootSourceWire = {
  /** Opened at once */
  readonly kernel_image_path: string;
  readonly initrd_path?: string;
  /** At most 2048 bytes; replaces all of the defaults */
  readonly boot_args?: string;
};

export type ActionWire = { readonly action_type: "InstanceStart" | "FlushMetrics" | "SendCtrlAltDel" };

export type VmStateWire = { readonly state: "Paused" | "Resumed" };

export type LoggerWire = {
  readonly log_path?: string;
  readonly level?: "Error" | "Warning" | "Info" | "Debug" | "Trace" | "Off";
  readonly show_level?: boolean;
  readonly show_log_origin?: boolean;
  readonly module?: string;
};

/** Once per process; a JSON line every 60 s, on FlushMetrics and at exit. */
export type MetricsWire = { readonly metrics_path: string };

/** Numbers are strings; bitmaps `0b..x..`. x86 and arm fields differ. */
export type CpuConfigWire = {
  readonly kvm_capabilities?: readonly string[];
  readonly cpuid_modifiers?: readonly object[];
  readonly msr_modifiers?: readonly object[];
  readonly reg_modifiers?: readonly object[];
  readonly vcpu_features?: readonly object[];
};

export type SnapshotCreateWire = {
  readonly snapshot_path: string;
  readonly mem_file_path: string;
  /** @default "Full" */
  readonly snapshot_type?: "Full" | "Diff";
};

export type SnapshotLoadWire = {
  readonly snapshot_path: string;
  readonly mem_backend: { readonly backend_type: "File" | "Uffd"; readonly backend_path: string };
  readonly resume_vm?: boolean;
  /** since 1.13 */
  readonly track_dirty_pages?: boolean;
  /** since 1.12 */
  readonly network_overrides?: readonly { readonly iface_id: string; readonly host_dev_name: string }[];
  /** since 1.16 */
  readonly vsock_override?: { readonly uds_path: string };
  /** since 1.14.4 and 1.15.1, x86 */
  readonly clock_realtime?: boolean;
};

/** The whole configuration, as `--config-file` takes it and GET /vm/config shows it (which gives null for what is not set). */
export type VmConfigWire = {
  readonly "boot-source": BootSourceWire;
  readonly drives: readonly DriveWire[];
  readonly "machine-config"?: MachineConfigWire | null;
  readonly "cpu-config"?: CpuConfigWire | null;
  readonly "network-interfaces"?: readonly NetworkInterfaceWire[] | null;
  readonly vsock?: VsockWire | null;
  readonly balloon?: BalloonWire | null;
  readonly entropy?: EntropyWire | null;
  readonly "mmds-config"?: MmdsConfigWire | null;
  readonly logger?: LoggerWire | null;
  readonly metrics?: MetricsWire | null;
};
