/** What CDI devices (Container Device Interface, https://github.com/cncf-tags/container-device-interface) change in a container. */

export type CdiDeviceNode = {
  /** In the container */
  readonly path: string;
  readonly hostPath: string;
  /** Absent: as the host's node is, numbers too */
  readonly type: "b" | "c" | "p" | undefined;
  readonly major: number | undefined;
  readonly minor: number | undefined;
  /** Absent: the host's */
  readonly fileMode: number | undefined;
  /** Some of r, w and m */
  readonly permissions: string;
  /** Absent: the container's user, if that is not root, else the host's */
  readonly uid: number | undefined;
  readonly gid: number | undefined;
};

export type CdiMount = {
  readonly hostPath: string;
  readonly containerPath: string;
  readonly type: string;
  readonly options: readonly string[];
};

export const hookNames = [
  "prestart",
  "createRuntime",
  "createContainer",
  "startContainer",
  "poststart",
  "poststop",
] as const;

/** A program of the host, run as root by the OCI runtime */
export type CdiHook = {
  readonly hookName: (typeof hookNames)[number];
  readonly path: string;
  readonly args: readonly string[];
  readonly env: readonly string[];
  /** Seconds */
  readonly timeout: number | undefined;
};

export type ContainerEdits = {
  /** Of the devices, for errors */
  readonly names: readonly string[];
  /** `NAME=value`, stronger than the request's and the image's */
  readonly env: readonly string[];
  readonly deviceNodes: readonly CdiDeviceNode[];
  readonly mounts: readonly CdiMount[];
  readonly hooks: readonly CdiHook[];
  readonly additionalGids: readonly number[];
};

/** A device as a request names it. */
export type CdiRequest = {
  /** For errors */
  readonly field: string;
  /** `vendor.com/class=name` */
  readonly name: string;
};

export const noEdits: ContainerEdits = {
  names: [],
  env: [],
  deviceNodes: [],
  mounts: [],
  hooks: [],
  additionalGids: [],
};

/** What there is on this node; for people. */
export type CdiStatus = {
  readonly specDirs: readonly string[];
  readonly devices: readonly string[];
  /** Files and directories that are not used, and why */
  readonly problems: readonly string[];
};

/** Where files are looked for when nobody says; the later one wins */
export const defaultSpecDirs: readonly string[] = ["/etc/cdi", "/var/run/cdi"];
