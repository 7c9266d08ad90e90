/** What building a guest tells whoever waits for it. */
export type GuestProgress = {
  readonly step: "download" | "unpack-kernel" | "initramfs" | "rootfs";
  /** One line for people */
  readonly message: string;
  readonly doneBytes?: number;
  readonly totalBytes?: number;
};
